"""Connections on loan that their borrowers do not use at the moment: who may take one, and when.

A borrower between two statements puts its connection in the loan's offer, and takes it out with
the next statement. Others may take it out meanwhile, and give it back in the borrower's stead:
who waits for a connection, the background thread, or whoever ends the borrower's work. Exactly
one of them gets it, because an element of a list can be popped once, and neither the borrower nor
who takes it needs the pool's lock for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from django_connpool.process import bursts
from django_connpool.process.background import NEVER, Ticket

from .core import Core
from .crew import Crew
from .line import Waiter
from .slot import TAKEN, Slot

logger = bursts.logger("loans")

SETTLED = 0.001  # seconds without another statement, after which those who wait may take it
OPENING = 0.05  # seconds in line, after which it is taken although a connection is being opened
FIRST_LOOK = 0.001  # seconds in line, after which a borrower looks for offers once more
# Seconds between two looks of the background thread, while borrowers wait and others offer. Each
# time there was nothing to take they are doubled.
OFTEN = 0.001  # at first, and after something was taken
SELDOM = 0.008  # at most, in a line that stands still
MOVING = 0.032  # at most, in a line that moves: each look keeps those who work from working


class Offer(list[Any]):
    """Holds a connection while its borrower can do without it. One for each loan."""

    __slots__ = ("ended", "slot")

    def __init__(self, slot: Slot, patience: float, idle_limit: float) -> None:
        """For the borrower of the loan that the slot is on.

        `patience`: seconds on offer after which who waits may take it. `idle_limit`: after which
        it is taken although nobody waits.
        """
        self.slot = slot
        # While it is parked: when the work ended that it is left from. Who deletes that may take
        # what is parked, and nobody else: its borrower may offer it again in this same object.
        self.ended: list[float] = []
        slot.patience, slot.idle_limit = patience, idle_limit
        slot.offer = self

    def take_up(self) -> Any:
        """For its borrower: the connection; None when somebody was faster."""
        try:
            return self.pop() if self else None
        except IndexError:
            return None

    def take(self) -> Any:
        """For others: the connection, to give it back; None when somebody was faster.

        It is of this loan, however many the slot has had since somebody looked at it.
        """
        connection = self.take_up()
        if connection is not None:
            self.slot.pinned = TAKEN
        return connection

    def claim(self) -> float:
        """Of what is parked, for who may take it from here on: when its work ended.

        Raises IndexError for all but one.
        """
        ended = self.ended[0]
        del self.ended[0]
        return ended

    def agree(self, patience: float, idle_limit: float) -> None:
        """Change these two."""
        if self.slot.offer is self:  # or the loan is over
            self.slot.patience, self.slot.idle_limit = patience, idle_limit


class _GivenBack(Offer):
    """Stands for the offer of a loan that is over already: there is nothing in it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.slot: Any = None
        self.ended = []

    def agree(self, patience: float, idle_limit: float) -> None:
        pass


GIVEN_BACK = _GivenBack()


def takes_time(offer: Offer) -> bool:
    """Whether to give back what is on offer may wait for the server, or call what is the user's.

    That is his `reset`, and what handles the log. Not for event loops.
    """
    slot = offer.slot
    core: Any = slot.core()
    return bool(
        core is None
        or core.winding_up  # what comes back is closed then, which is waited for
        or core.warnings
        or slot.reported  # which is logged
        or slot.session.takes_time()
    )


class Leaving:
    """Kept by a borrower alone: gives back what is on offer when its borrower is collected."""

    __slots__ = ("offer",)

    def __init__(self) -> None:
        self.offer: Offer | None = None  # the present one

    def __del__(self) -> None:
        # A finalizer: it may run inside any lock, so it takes none.
        if self.offer:
            slot, connection = self.offer.slot, self.offer.take()
            core = slot.core()
            if core is not None and connection is not None:
                core.dropped(slot, connection)


class Watch:
    """A task of the background thread: looks at what is on offer, while somebody waits for it."""

    def __init__(self, core: Core, crew: Crew) -> None:
        self.ticket: Ticket  # that does not last: a pool in use has one that does
        self._core = core
        self._crew = crew
        self._pause = OFTEN
        self._looked_at = 0.0

    def come_by(self, at: float) -> None:
        """Have it look no later than at that moment."""
        if at < self.ticket.due:
            self.ticket.by(at)

    def expect(self) -> None:
        """Look for offers from now on, also for those who are in line already."""
        core = self._core
        if not core.limits.has_offers:
            core.limits.has_offers = True
            if core.line:
                self.come_by(core.clock() + OFTEN)

    def wait(self, waiter: Waiter, seconds: float) -> bool:
        """Wait in line, at most so long; say whether woken.

        Not at once for all of it, where others may offer what they hold. Who has waited for a
        moment looks himself, and has the background thread look from then on, until there is no
        line. So a line that moves at once costs nobody anything, and a long one little.
        """
        core = self._core
        if not core.limits.has_offers or seconds <= FIRST_LOOK:
            return waiter.wait(seconds)
        if self.ticket.due <= core.clock() + MOVING:  # the background thread looks already
            return waiter.wait(seconds)
        if waiter.wait(FIRST_LOOK):
            return True
        self.serve(0)
        self.come_by(core.clock() + OFTEN)
        return waiter.wait(seconds - FIRST_LOOK)

    def serve(self, more: int) -> None:
        """Take what others do not use for those in line, and so many more who are about to be."""
        core = self._core
        with core.lock:
            if core.parked:
                core.bring_in()
            ripe = for_those_who_wait(core, core.clock(), more)
        self._give_back(ripe)

    def _give_back(self, ripe: list[Offer]) -> int:
        """Give these back; in a thread, if something of the user's is called by that.

        It may take its time, or borrow: a `reset` of his, or what handles the log.
        """
        core = self._core
        if not ripe or not (core.limits.has_reset or core.limits.leak_after or core.warnings):
            return give_back(ripe)
        self._crew.in_a_thread(partial(take_from, ripe), "offers")
        return len(ripe)

    def take_all(self) -> None:
        """Give back everything on loan that nobody is using."""
        with self._core.lock:
            found = unused(self._core)
        give_back(found)

    def run(self, now: float) -> float:
        """Give back what may be taken, and return when to look again."""
        core = self._core
        with core.lock:
            if core.parked:
                core.bring_in()
            wanted = len(core.line)
            ripe = too_long(core, now) + for_those_who_wait(core, now, 0)
        taken = self._give_back(ripe)
        with core.lock:
            again = min(next_too_long(core), default=NEVER)
        if wanted and core.limits.has_offers:
            most = MOVING if core.moved_at > self._looked_at else SELDOM
            self._pause = OFTEN if taken else min(2 * self._pause, most)
            again = min(again, now + self._pause)
        self._looked_at = now
        return again


def give_back(offers: Iterable[Offer]) -> int:
    """Give back what is still on offer, in the borrowers' stead; return how many."""
    taken = 0
    for offer in offers:
        connection = offer.take()
        if connection is None:
            continue
        taken += 1
        pool = connection._pool
        try:
            pool.putconn(connection)
        except Exception:  # there is nobody to be told
            text = "%s: giving back what was on offer failed"
            logger.exception(text, pool.name, extra={"pool": pool.name})
        connection = None
    return taken


def take_from(offers: Iterable[Offer]) -> None:
    """The same, for threads, of which nobody asks how many."""
    give_back(offers)


def unused(core: Core) -> list[Offer]:
    """Under the lock: those that have their connection in them."""
    return [slot.offer for slot in core.slots.all if slot.offer]


def for_those_who_wait(core: Core, now: float, more: int) -> list[Offer]:
    """Under the lock: those to take for the line and so many more, longest offered first.

    None, while something is idle, or is opened for them.
    """
    line, slots = core.line, core.slots
    if slots.idle or not core.serving:
        return []
    has_place = (
        len(slots) < core.limits.max_size
        and core.outage is None
        and (core.sharing is None or core.sharing.may_open(0))
    )
    if has_place and (not line or now - line[0].since < OPENING):
        return []
    ripe = [one for one in unused(core) if now - one.slot.turned_at >= one.slot.patience]
    return sorted(ripe, key=lambda offer: offer.slot.turned_at)[: len(line) + more]


def too_long(core: Core, now: float) -> list[Offer]:
    """Under the lock: those on offer for as long as their borrowers let them be."""
    return [one for one in unused(core) if now - one.slot.turned_at >= one.slot.idle_limit]


def next_too_long(core: Core) -> list[float]:
    """Under the lock: when there will be such, as moments of the monotonic clock."""
    slots = [offer.slot for offer in unused(core)]
    return [slot.turned_at + slot.idle_limit for slot in slots if slot.idle_limit < NEVER]


def overdue(core: Core, now: float) -> list[Offer]:
    """Under the lock: those that would be closed if they were idle, and whoever waits may take."""
    return [
        one
        for one in unused(core)
        if one.slot.is_offered and (core.closed or now >= one.slot.retire_at)
    ]
