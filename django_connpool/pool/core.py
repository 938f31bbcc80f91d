"""The state of a pool, and what happens to it under its lock.

How a pool is put together, for the reader:

* A `Slot` is a place of `max_size` with a session in it. `Slots` holds all of them, `Line` those
  who wait, `Outage` what is known of a server that says no. `Core` has them all, and the lock.
* `lock` guards them and the counters. It is held for a few lines at a time and never while
  anything blocks. What may be taken inside it, CONTRIBUTING.md says.
* What blocks (connecting, closing) is done by workers, threads that live as long as there is such
  work: `Crew`. What time brings is done by the process's one background thread: `Upkeep`.
* `Pool` lends and takes back; `Control` opens, closes, drains, resizes.

What an interrupt leaves half done the slot's state tells, and `audit` brings it to rest: when a
note asks for it, when the background thread comes by, and each second while somebody is in line.
What finalizers, signal handlers and others bring who may not take the lock are notes in `inbox`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from django_connpool.process import bursts, ending
from django_connpool.process.background import AT_ONCE, NEVER, Ticket
from django_connpool.process.cpython import ownership

from . import explain
from .history import History
from .limits import Limits
from .line import Line
from .news import News
from .outage import Outage
from .protocols import Errors, Opener, Sharing
from .slot import (
    CONDEMNED,
    DRAINED,
    EXPIRED,
    GIVEN_UP,
    HANDED,
    IDLE,
    LOAN,
    OPENING,
    POOL_CLOSED,
    RECLAIMED,
    RETURNING,
    SURPLUS,
    Loans,
    Slot,
)
from .slots import Slots
from .stats import Stats

logger = bursts.logger("loans")
sessions_logger = bursts.logger("sessions")

COUNT_AT = 256  # loans of a connection, after which those noted are counted
CLEAN_TIMEOUT = 5.0  # seconds for a clean-up or a rollback
AUDIT_EVERY = 1.0  # seconds, while somebody stands in line


class Core:
    """A pool's state. Methods that say so in their first words need `lock`."""

    # Every loan looks at a dozen of these: in slots that takes a tenth off it.
    __slots__ = (
        *("__weakref__", "clock", "closed", "deadline", "describe", "errors", "full", "generation"),
        *("grew_at", "history", "inbox", "is_inside", "keep_min", "last_error", "limits", "line"),
        *("line_since", "lock", "mean_connect", "moved_at", "name", "news", "opened", "opener"),
        *("outage", "parked", "paused_until", "ref", "served_at", "serving", "sharing", "slots"),
        *("stats", "suspended", "ticket", "warmed", "warnings", "winding_up"),
    )

    ticket: Ticket  # of the background thread

    def __init__(
        self,
        name: str,
        limits: Limits,
        opener: Opener,
        errors: Errors,
        clock: Callable[[], float],
        keep_min: bool = True,
        describe: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.opener = opener
        self.errors = errors
        self.clock = clock
        self.describe = describe  # called at each borrow: what it is for
        self.news = News()
        self.keep_min = keep_min  # `min_size` is opened and kept, not only not closed
        self.warmed = self.opened = False  # that because `warm` was called; ever
        self.sharing: Sharing | None = None  # where it shares a bound with others
        self.start_empty()

    def start_empty(self) -> None:
        """Be a pool with no connection: when new, and in a forked child."""
        self.ref: weakref.ref[Core] = weakref.ref(self)
        # Reentrant: a finalizer or signal handler may run in the middle of a section below,
        # in the thread that holds it, and borrow or give back.
        self.lock: Any = threading.RLock()
        self.is_inside = ownership(self.lock)  # whether this thread has interrupted itself there
        # Guarded by `lock`:
        self.slots = Slots()
        self.line = Line()
        self.line_since = 0.0  # when the line was last empty
        self.moved_at = self.served_at = 0.0  # when one was last given back; to somebody in line
        self.grew_at = 0.0  # when an attempt to connect was last begun
        self.parked = False  # a thread may have parked something since; written without the lock
        self.serving = False  # open and not suspended: idle connections may be lent
        self.closed = True
        self.suspended = False
        self.winding_up = False  # closed, or the process is ending: what comes back is closed
        self.outage: Outage | None = None
        self.last_error: BaseException | None = None
        self.generation = 0
        self.paused_until = AT_ONCE  # no attempt to connect before
        self.deadline = NEVER  # by which the background thread comes
        self.mean_connect = 0.0  # seconds, moving average
        self.stats = Stats()
        self.history = History()
        self.full: list[threading.Event] = []  # of those in wait()
        # Appended to without the lock, at any instruction: a function of the core's and what to
        # call it with, under the lock. Each looks first whether it is still true.
        self.inbox: deque[tuple[Any, ...]] = deque()
        self.news = self.news.anew()
        self.warnings = self.news.warnings  # where a loan that ends looks

    # -- The inbox ------------------------------------------------------------------------

    def put(self, *note: Any) -> None:
        """Leave a note, from anywhere, and have somebody read it."""
        self.inbox.append(note)
        self.ticket.now()

    def catch_up(self) -> None:
        """Under the lock: do what the notes say. One that is interrupted is done again."""
        while self.inbox:
            note = self.inbox[0]
            note[0](self, *note[1:])
            if self.inbox and self.inbox[0] is note:
                del self.inbox[0]

    # For finalizers: a connection (`loans` None), a thread or an idle borrower is gone.
    def orphaned(self, slot: Slot, loans: Loans | None) -> None:
        self.put(Core.reclaim, slot, loans)

    def dropped(self, slot: Slot, conn: Any) -> None:
        self.put(Core.take_back, slot, conn, slot.loan)

    def write_was_refused(self, slot: Slot) -> None:
        """A borrower could not write: if the server has turned read-only, none of these can."""
        this, others = slot.session.after_refused_write()
        if this and not self.is_inside():
            with self.lock:
                self.replace_read_only(slot, others)
            self.ticket.now()  # to close what is out, and to log
        elif this:
            self.put(Core.replace_read_only, slot, others)

    def warn_later(self, logger: logging.Logger, text: str, *args: object, **extra: object) -> None:
        """Log a warning, once the lock is free. The text begins with the pool's name."""
        self.news.warn(logger, text, (self.name, *args), self.numbers(**extra))
        said = text.removeprefix("%s: ")
        self.history.tell(self.clock(), said, said % args if args else said)

    def numbers(self, **more: object) -> dict[str, Any]:
        """What a log record says beside its text. In use is all on loan, on offer or not."""
        in_use = self.slots.on_loan()
        return {"pool": self.name, "in_use": in_use, "waiting": len(self.line), **more}

    def schedule(self, at: float) -> None:
        """Under the lock: have the background thread come at that moment, or earlier."""
        if at < self.deadline:
            self.ticket.by(at)
            self.deadline = at

    # -- From hand to hand ----------------------------------------------------------------

    def settle(self, slot: Slot, conn: Any, now: float, unfit: str = "") -> None:
        """Under the lock: end the loan, if any, and bring the slot to rest.

        It goes to the first in line, to the idle ones, or out: if it is `unfit`, which says why, or
        for a reason of the pool's. Every loan comes by here: this calls only what it has to.
        """
        loans, limits, slots = slot.loans, self.limits, self.slots
        if loans is not None:  # or it was not lent, or an interrupt struck before it was
            loans.discard(slot)
            slot.loans = None
            if limits.max_uses:
                slot.uses += 1
                if slot.uses == limits.max_uses:
                    slot.retire_at = AT_ONCE
            self.stats.hold.note(now - slot.since)
            if slot.reported:
                slot.reported = False
                held = now - slot.since
                text = "%s: a loan reported as a leak was given back after %.1f s"
                self.warn_later(logger, text, held, held=held)
        session = slot.session
        if unfit:
            slots.retire(slot, unfit)
            session.conn = conn  # last: an interrupt in between must not make it look fit
            return
        session.conn = conn
        slot.note = slot.pinned = slot.offer = None
        slot.loan += 1
        if not slot.loan % COUNT_AT:
            self.stats.count()
        line, waiter = self.line, None
        if line and self.serving:
            waiter = line[0]
            if waiter.slot is not None or waiter.left:
                waiter = line.first()
        if (
            now >= slot.retire_at
            or (len(slots.all) > limits.most and slots.staying() > limits.most)
            or (self.winding_up and waiter is None)
        ):
            slots.retire(slot, self._reason_to_close(slot))
            return
        slot.idle_since = now
        vet_at = now + limits.ping_after
        slot.vet_at = vet_at if vet_at < slot.retire_at else slot.retire_at
        if session.cleaning is not None:
            self.stats.sessions_cleaned += bool(session.cleaning.undoes)
            slot.vet_at = AT_ONCE
            self.schedule(now + CLEAN_TIMEOUT)
        if waiter is not None:
            self.served_at = now if loans is not None else self.served_at  # by what came back
            self.hand_over(slot, waiter, now)
            return
        slots.idle.append(slot)
        slot.state = IDLE
        if slot.retire_at < self.deadline or now + limits.max_idle < self.deadline:
            self.schedule(min(now + limits.max_idle, slot.retire_at))

    def _reason_to_close(self, slot: Slot) -> str:
        if self.winding_up:
            return POOL_CLOSED
        if slot.reason or self.limits.most < self.limits.max_size:
            return GIVEN_UP
        if slot.generation != self.generation:
            return DRAINED
        return EXPIRED if self.clock() >= slot.retire_at else SURPLUS

    def hand_over(self, slot: Slot, waiter: Any, now: float) -> None:
        """Under the lock: give a slot to the first in line, and wake it."""
        self.stats.wait.note(now - waiter.since)
        slot.waiter = waiter
        waiter.slot, slot.state = slot, HANDED
        del self.line[0]
        # Last: who is woken has to wait for the interpreter's lock, which this thread has.
        # Inside the pool's lock: a signal handler that borrows must not queue behind a sleeper.
        waiter.wake()

    def serve_line(self) -> None:
        """Under the lock: hand idle connections to those in line."""
        self.audit()
        idle = self.slots.idle
        while self.serving and idle and (waiter := self.line.first()) is not None:
            slot = idle[-1]
            slot.state = RETURNING
            del idle[-1]
            self.hand_over(slot, waiter, self.clock())

    def bring_in(self) -> None:
        """Under the lock: what threads have parked is idle from here on; see parking.py."""
        self.parked = False  # first: who parks meanwhile says so again
        self.stats.count_again(self.slots.all)
        found = [slot.offer for slot in self.slots.all if slot.is_parked]
        for offer in sorted(found, key=lambda offer: offer.ended[:1]):  # a copy: it may go on
            try:
                slot, ended = offer.slot, offer.claim()
                # One line and no variable: an interrupt drops it, or finds it on its way back.
                slot.session.conn, slot.state = offer.pop(), RETURNING
            except IndexError:  # its borrower goes on, or somebody has given it back
                continue
            slot.session.conn.__dict__["_pool"] = None  # as it was when it was new
            # Who waits may have come later than that, and does not wait less than nothing.
            self._settle_if_clean(slot, slot.session.conn, None if self.line else ended)

    def condemn(self) -> None:
        """Under the lock: close the idle connections without trying them on a borrower.

        What killed one killed its contemporaries. Loans prove themselves by being used.
        """
        self.bring_in()
        self.slots.retire_all(CONDEMNED)

    # -- What interrupts and dead borrowers leave -----------------------------------------

    def audit(self) -> None:
        """Under the lock: bring to rest what an interrupt has left half done."""
        self.line.audit()
        for slot in self.slots.lent():
            if slot.session.is_gone:  # and the note of it was lost
                self.reclaim(slot, None)
        for slot in self.slots.audit():
            if slot.state is OPENING:  # its worker was interrupted
                self.stats.connections_num += 1
                self.stats.connections_errors += 1
                self.slots.forget(slot)
            elif slot.state is HANDED:
                waiter = slot.waiter  # looked at once: it may accept at this moment
                if waiter is not None:
                    waiter.leave_if_stopped()
                if waiter is not None and not waiter.left:
                    self.line.let_go(waiter)
                if waiter is None or not waiter.left:
                    continue
                slot.state = RETURNING
            if slot.state is RETURNING:
                slot.waiter = None
                self._settle_if_clean(slot, slot.session.reachable())
        self.dismiss_if_done()

    def _settle_if_clean(self, slot: Slot, conn: Any, ended: float | None = None) -> None:
        """Under the lock, where nothing may be sent: keep a session only if it is clean."""
        is_clean = conn is not None and slot.session.is_clean(conn)
        if is_clean:
            slot.session.rest()
        self.settle(slot, conn, ended or self.clock(), "" if is_clean else RECLAIMED)

    def take_back(self, slot: Slot, conn: Any, loan: int | None) -> None:
        """Under the lock: a loan was given back inside the lock, or its end was interrupted.

        Unless somebody else has given the same loan back meanwhile: what is on loan then
        is the next borrower's.
        """
        if slot.state is LOAN and slot.loan == loan and slot in self.slots.all:
            slot.state = RETURNING
            self._settle_if_clean(slot, conn)
        else:
            self.audit()

    def reclaim(self, slot: Slot, loans: Loans | None) -> None:
        """Under the lock: end a loan whose borrower has dropped it, or whose thread (that of
        `loans`) has ended. What was on offer is lent again, if it is clean; else it is closed.
        """
        if slot.state is not LOAN:  # it may not even have been opened
            return
        unused = slot.offer.take() if slot.offer and slot.loans is loans else None
        if unused is not None:
            slot.state = RETURNING
            self._settle_if_clean(slot, unused)
            return
        conn = slot.session.reachable()
        if slot not in self.slots.all or not slot.is_orphan(loans):
            return
        slot.retire_at = AT_ONCE  # somebody may still know the connection
        slot.state = RETURNING
        self.stats.loans_reclaimed += 1
        self.stats.loans_leaked += not slot.reported
        if not ending.is_ending():
            self.warn_later(
                logger,
                "%s: a connection was never given back, closing it; borrowed %.1f s ago by %s%s%s",
                self.clock() - slot.since,
                explain.name_of(slot.loans),
                slot.at_site(),
                slot.purpose(),
            )
        self.settle(slot, conn, self.clock(), RECLAIMED)

    def replace_read_only(self, slot: Slot, others: bool) -> None:
        """Under the lock: replace the connections to a server that has turned read-only.

        They never fail by themselves. See session/roles.py.
        """
        slot.retire_at = AT_ONCE
        if others and slot.generation == self.generation and not self.closed:
            self.renew(CONDEMNED)
            text = "%s: the server is read-only: replacing every connection"
            self.warn_later(sessions_logger, text)

    def renew(self, reason: str) -> None:
        """Under the lock: replace every connection, idle ones now, loans as they come back."""
        self.bring_in()
        self.generation += 1
        for slot in self.slots.all:
            slot.retire_at = AT_ONCE
        self.slots.retire_all(reason)

    def dismiss_if_done(self) -> None:
        """Under the lock: what is gone has no place; a closed pool that is empty needs nobody."""
        if self.sharing is not None:
            self.sharing.keep()
        if self.closed and not self.slots.all:
            self.ticket.leave()

    def check_open(self) -> None:
        if self.closed:
            state = "is closed" if self.opened else "is not open yet"
            raise self.errors.closed(f"pool {self.name!r} {state}")
