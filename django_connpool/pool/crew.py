"""Workers: short-lived threads that connect and close, as long as there is such work."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial

from django_connpool.process import bursts, threads, uwsgi
from django_connpool.process.background import AT_ONCE
from django_connpool.process.threads import Job
from django_connpool.redaction import one_line, public

from .core import CLEAN_TIMEOUT, Core
from .growth import patience, worth_opening
from .news import CLOSED
from .outage import FIRST_RETRY, UNFIT
from .prospects import (
    end_outage,
    judge,
    lacks_minimum,
    note_refusal,
    promising,
    schedule_retry,
    tell_if_full,
)
from .slot import CLOSING, IDLE, LOST, OPENING, RETURNING, UNCLEAN, Slot

logger = bursts.logger("connecting")
sessions_logger = bursts.logger("sessions")

SLOWEST_CONNECT = 5.0  # seconds a connect is believed to take usually, at the most
FRESH = 1.0  # seconds for which a connection just opened or given back needs no ping
CLOSERS = 4  # workers that close connections at the same time
CLOSE_TIMEOUT = 1.0  # seconds for the server to let go of a connection
LATE = 1.0  # seconds after which a thread that has not begun is not counted on


class Crew:
    """Finds workers for what is to be opened and closed, and does their work.

    Hiring only starts threads: it cannot know, when it is interrupted, whether one has begun. A
    worker takes its job itself, under the lock; one thread too many finds none, and ends.
    """

    def __init__(self, core: Core, failed: Callable[[], None] | None) -> None:
        """`failed` is called once when connecting has failed for `reconnect_timeout`."""
        self.core = core
        self._failed = failed
        # Threads that have not begun yet, and when they were hired; the core's lock guards it.
        self._hired: dict[threading.Thread, float] = {}

    def staff(self) -> None:
        """Find workers for what there is to do. Call without the lock."""
        core = self.core
        while True:
            with core.lock:
                self._forget_failed()
                if not self._is_wanted(len(self._hired)):
                    return
                # Only now: whoever waits comes by here.
                name = f"{core.name}-worker"
                thread = threading.Thread(target=self._begin, name=name, daemon=True)
                self._hired[thread] = core.clock()
            if not self._start(thread):
                with core.lock:
                    self._hired.pop(thread, None)
                return self.work()

    def in_a_thread(self, work: Callable[[], None], name: str) -> None:
        """Have it done in a thread of its own; here, where there are none to be had."""
        thread = threading.Thread(target=work, name=f"{self.core.name}-{name}", daemon=True)
        if not self._start(thread):
            work()

    def tell(self) -> None:
        """Tell the log and those who listen what has happened. Call without the lock."""
        news = self.core.news
        if news.warnings:
            self.in_a_thread(news.log_warnings, "warnings")
        if news.is_out:
            self.in_a_thread(news.tell, "news")

    def _start(self, thread: threading.Thread) -> bool:
        if self.core.winding_up or uwsgi.is_loading():
            return False  # a thread begun now would be cut off in the middle
        return threads.start(thread)

    def _forget_failed(self) -> None:
        """Under the lock: do not count on those whose start an interrupt has kept from us."""
        now = self.core.clock()
        for thread, since in list(self._hired.items()):
            if thread.ident is None and now < since + LATE:
                self.core.schedule(since + LATE)
            elif not thread.is_alive():
                del self._hired[thread]

    def _begin(self) -> None:
        with self.core.lock:
            self._hired.pop(threading.current_thread(), None)
        self.work()

    def forget(self) -> None:
        """In a forked child: there are no threads."""
        self._hired.clear()

    def work(self, take: Callable[[Job], list[Slot]] | None = None, seconds: float = 0.0) -> None:
        """Do one job after the other, until there is none.

        `take`: what takes up the next, instead of what there is to open and to close; it has
        so many `seconds`, if it is something to close.
        """
        job = Job()
        note = partial(self.core.put, _after_interrupt)
        threads.do(partial(self._do, job, take, seconds), job, note)

    def _do(self, job: Job, take: Callable[[Job], list[Slot]] | None, seconds: float) -> None:
        slots = (take or self._take)(job)
        while slots:
            if slots[0].state is OPENING:
                self._open(slots[0])
            elif slots[0].state is CLOSING:
                self._close(slots, self.core.clock() + (seconds if take else CLOSE_TIMEOUT))
            else:
                self._check(slots[0])
            slots = (take or self._take)(job)
            if slots and not take:  # then there may be work for others too
                self.staff()

    def close_all(self, seconds: float) -> None:
        """Close what there is to close, here and now, all at once."""
        self.work(self._take_all, seconds)

    def check_idle(self) -> None:
        """Ask the server behind each idle connection; replace those that do not answer."""
        with self.core.lock:
            self.core.bring_in()
            unseen = list(self.core.slots.idle)
        self.work(lambda job: self._take_idle(job, unseen))

    # -- What there is to do --------------------------------------------------------------

    def _take(self, job: Job) -> list[Slot]:
        """Take up a slot to close, or one to open; none when there is nothing to do."""
        core, slots = self.core, self.core.slots
        with core.lock:
            if slots.to_close and self._closers() < CLOSERS:
                slot = slots.to_close[0]
                slot.job = job
                slots.to_close.popleft()
                return [slot]
            if not self.should_open():
                return []
            slot = Slot(core.ref, core.generation)
            if core.sharing is not None and not core.sharing.take(slot):
                return []
            slot.job = job
            slot.opened_at = core.grew_at = core.clock()
            slots.begin_opening(slot)
            return [slot]

    def _take_all(self, job: Job) -> list[Slot]:
        slots = self.core.slots
        with self.core.lock:
            taken = list(slots.to_close)
            for slot in taken:
                slot.job = job
            slots.to_close.clear()
            return taken

    def _take_idle(self, job: Job, unseen: list[Slot]) -> list[Slot]:
        idle = self.core.slots.idle
        with self.core.lock:
            while unseen:
                slot = unseen.pop()
                if slot.state is IDLE:
                    slot.job = job
                    slot.state = RETURNING
                    idle.remove(slot)
                    return [slot]
            return []

    def _closers(self) -> int:
        slots = self.core.slots
        return len(slots.closing) - len(slots.to_close)

    def _is_wanted(self, hired: int) -> bool:
        """Under the lock: whether one more worker is, beside so many that have not begun."""
        slots = self.core.slots
        closers = min(len(slots.to_close), max(0, CLOSERS - self._closers()))
        if closers > hired:
            return True
        return self.should_open(hired - closers)

    def should_open(self, coming: int = 0) -> bool:
        """Under the lock: is one more attempt to connect wanted, allowed, and possible?

        `coming`: beside those under way, attempts that are about to begin.
        """
        sharing = self.core.sharing
        # First: where there is no place, nobody is to look again soon whether one is worth it.
        return (sharing is None or sharing.may_open(coming)) and self.would_open(coming)

    def would_open(self, coming: int) -> bool:
        """Under the lock: the same, whatever others have of a bound that it shares with them."""
        core, slots = self.core, self.core.slots
        if (
            core.closed
            or core.suspended
            or len(slots) + coming >= core.limits.most
            or len(slots.opening) + coming >= core.limits.max_connecting
        ):
            return False
        if core.clock() < core.paused_until:
            core.schedule(core.paused_until)
            return False
        outage = core.outage
        if outage is not None and (coming or promising(core)):
            return False  # one probe at a time
        if outage is not None and core.clock() < outage.retry_at:
            schedule_retry(core, outage)
            return False
        # In a process that loads, nobody else is there to give back, or to look again.
        alone = uwsgi.is_loading() and len(core.line) > len(slots.opening)
        if core.line and (alone or self._growth_is_worth_it(coming)):
            return True
        return lacks_minimum(core, coming)

    def _growth_is_worth_it(self, coming: int) -> bool:
        core, now = self.core, self.core.clock()
        under_way = promising(core) + coming
        worth = worth_opening(
            waiting=len(core.line),
            opening=under_way,
            on_loan=core.slots.on_loan(),
            stalled_for=now - max(core.line_since, core.moved_at),
            pressed_for=now - max(core.line_since, core.grew_at),
            mean_hold=core.stats.mean_hold(),
            mean_connect=core.mean_connect,
        )
        if not worth and len(core.line) > under_way:
            # Nobody may ever give back: look again when the first in line has been patient.
            core.schedule(now + patience(core.mean_connect))
        return worth

    # -- Doing it -------------------------------------------------------------------------

    def _open(self, slot: Slot) -> None:
        """Connect, and give the connection to whoever needs it by then."""
        core = self.core
        began = core.clock()
        try:
            session = core.opener.open(slot, hurry=bool(core.line))
        except Exception as error:
            self._failed_to_open(slot, error)
            return
        now = core.clock()
        with core.lock:
            took = now - began
            mean = core.mean_connect
            # Capped, so that one which hung does not make us wait for the next ones as long.
            core.mean_connect += (0.3 if mean else 1.0) * (min(took, SLOWEST_CONNECT) - mean)
            core.stats.connections_num += 1
            core.stats.connect.note(took)
            # What a check has refused is over when one passes it.
            recovered = core.outage is not None and core.outage.kind != UNFIT
            if recovered:
                end_outage(core, now)
            slot.opened_at = now
            life = core.limits.max_lifetime * (1 - core.limits.jitter * random.random())
            # Drained while it was being opened: for nobody.
            slot.retire_at = now + life if slot.generation == core.generation else AT_ONCE
            core.slots.has_opened(slot)
            core.settle(slot, session.conn, now)
            # Just opened, so believed without a ping for a moment.
            if session.cleaning is None and not core.limits.has_check:
                slot.vet_at = max(slot.vet_at, min(now + FRESH, slot.retire_at))
            tell_if_full(core)
        if recovered:  # until now one attempt at a time was made
            self.staff()
            self.tell()

    def _failed_to_open(self, slot: Slot, error: Exception) -> None:
        core, now = self.core, self.core.clock()
        with core.lock:
            core.stats.connections_num += 1
            core.stats.connections_errors += 1
            core.slots.forget(slot)
            note_refusal(core, error, now, began=slot.opened_at)
            judge(core, answered=True, began=slot.opened_at)
            core.dismiss_if_done()
        text, reason = "%s: connecting failed: %s", core.outage.kind if core.outage else ""
        logger.warning(text, core.name, one_line(error), extra=core.numbers(reason=reason))
        self._report_outage(now)
        self.tell()

    def _report_outage(self, now: float) -> None:
        core, outage = self.core, self.core.outage
        if outage is None or outage.reported:
            return
        if now - outage.since < core.limits.reconnect_timeout:
            return
        outage.reported = True
        lasted = now - outage.since
        extra = core.numbers(reason=outage.kind, lasted=lasted)
        logger.warning("%s: no connection for %.0f s", core.name, lasted, extra=extra)
        if self._failed is not None:
            try:
                self._failed()
            except Exception as error:
                text = "%s: the reconnect_failed callback failed"
                logger.error(text, core.name, exc_info=public(error), extra=extra)

    def _check(self, slot: Slot) -> None:
        """Ask the server behind one that was idle."""
        core, session = self.core, slot.session
        was_changed = session.cleaning is not None
        fit = session.cleaned(CLEAN_TIMEOUT) if was_changed else session.answers()
        with core.lock:
            slot.job = None
            if fit:
                idle_since = slot.idle_since
                core.settle(slot, session.conn, core.clock())
                if slot.state is IDLE:  # or the surplus of a pool often checked would never age
                    slot.idle_since = idle_since
            elif was_changed and not session.is_lost:  # which says nothing of the others
                core.slots.retire(slot, UNCLEAN)
            else:
                self.lose(slot)

    def lose(self, slot: Slot) -> None:
        """Under the lock: a connection was found dead, and its generation goes with it."""
        self.core.slots.retire(slot, LOST)
        self.core.stats.connections_lost += 1
        self.core.condemn()

    def _close(self, slots: list[Slot], deadline: float) -> None:
        """Say goodbye to all, wait for the server to let go of each, and free their places."""
        core = self.core
        goodbyes = [(slot, self._say_goodbye(slot)) for slot in slots]
        for slot, interrupt in goodbyes:
            has_ended = slot.session.await_end(deadline - core.clock(), interrupt)
            self._free(slot, has_ended)
        self.tell()

    def say_goodbye_for_borrower(self, slot: Slot) -> None:
        """In another thread's stead, which will not come to do it."""
        try:
            slot.session.say_goodbye_for_borrower()
        except Exception as error:
            self._tell_not_closed(error)

    def _say_goodbye(self, slot: Slot) -> Callable[[float], None] | None:
        """The user's own `close` may fail; that is no reason to leave the others open."""
        try:
            return slot.session.say_goodbye()
        except Exception as error:
            self._tell_not_closed(error)
            return None

    def _tell_not_closed(self, error: Exception) -> None:
        text, core = "%s: closing a connection failed: %s", self.core
        sessions_logger.info(text, core.name, one_line(error), extra=core.numbers())

    def _free(self, slot: Slot, has_ended: bool) -> None:
        core = self.core
        with core.lock:
            if core.sharing is not None and not has_ended:
                core.sharing.doubt(slot)
            core.slots.forget(slot)
            core.stats.count_again((slot,))
            core.stats.closed_for(slot.reason)
            core.news.note(CLOSED, reason=slot.reason)
            if core.outage is not None:
                core.outage.place_is_free(core.clock())
            judge(core)
            core.dismiss_if_done()


def _after_interrupt(core: Core) -> None:
    """Under the lock: a worker was interrupted. What ends its thread may do so again."""
    core.audit()
    core.paused_until = core.clock() + FIRST_RETRY
