"""A pool that shares a bound with others: asks for places, and gives up what others wait for.

What a place is, and whose it is, `Places` of protocols.py knows. A pool that shares no bound has
none, and nothing of this is called.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from django_connpool.process import bursts
from django_connpool.process.background import AT_ONCE, NEVER, Ticket, background

from . import offers
from .core import Core
from .crew import Crew
from .protocols import Look, Places
from .slot import GIVEN_UP, IDLE, LOAN, Slot

logger = bursts.logger("sharing")

# Seconds of idleness after which a connection may be given up: to who has none, and to anybody.
# The last one given back is lent first, so one that was idle for long is needed less often than it
# costs to open another. The last of a pool stays longer, or two pools would take it in turns.
RESTED, SPARE = 0.005, 0.04
RESTED_LAST, SPARE_LAST = 0.04, 0.5
MOST_WANTED = 8  # connections that a pool says at once that it would open


def dispensable(unused: list[float], staying: int, after: float, last_after: float) -> int:
    """How many have been unused for so long; for longer, if it is the last that a pool has."""
    number = sum(seconds >= after for seconds in unused)
    return number - (0 < number == staying and min(unused) < last_after)


class Sharing:
    """A task of the background thread, while somebody waits for a place."""

    ticket: Ticket  # that does not last: a pool in use has one that does

    def __init__(self, core: Core, crew: Crew, places: Places) -> None:
        self._core = core
        self._crew = crew
        self._places = places
        self._bells: list[socket.socket] = []  # those that the background thread reads

    def come(self) -> None:
        """Have it run soon. Takes the background's lock, and no other."""
        self.ticket.by(AT_ONCE)

    def run(self, now: float) -> float:
        """Tell the others, look what they say, do it, and return when to come again."""
        core, places = self._core, self._places
        ripe: list[offers.Offer] = []
        with core.lock:
            if core.closed and not core.slots.all:
                return NEVER
            limits = core.limits
            limits.most = limits.max_size
            core.bring_in()
            places.silence()  # first: what rings from here on is heard
            plan = places.tick(self._look(now), now)
            self._hang(places.bells())
            if plan.beyond:
                self._empty([slot for slot in core.slots.all if slot.place in plan.beyond])
            if plan.gives:
                ripe = self._give_up(plan.gives, now)
            if plan.parts:
                limits.most = core.slots.staying() - 1
            self._complain()
        if ripe:
            self._crew.in_a_thread(partial(offers.take_from, ripe), "offers")
        if plan.has_place or core.slots.to_close:
            self._crew.staff()
        self._crew.tell()
        return plan.again

    def _hang(self, bells: list[socket.socket]) -> None:
        for bell in self._bells:
            if bell not in bells:
                background.unread(bell)
        for bell in bells:
            if bell not in self._bells:
                background.read(bell, self.come)
        self._bells = bells

    # -- For those who open and close; all under the lock ---------------------------------

    def may_open(self, coming: int) -> bool:
        return self._places.may_open(coming)

    def take(self, slot: Slot) -> bool:
        slot.place = self._places.take(self._core.clock())
        if self._places.complaints:
            self.come()
        return slot.place is not None

    def keep(self) -> None:
        core, now = self._core, self._core.clock()
        core.limits.most = core.limits.max_size
        self._places.keep({slot.place for slot in core.slots.all if slot.place is not None}, now)
        if core.closed and not core.slots.all:
            for bell in self._bells:
                background.unread(bell)
            self._bells.clear()
            self._places.leave(now)
            self.ticket.leave()

    def doubt(self, slot: Slot) -> None:
        if slot.place is not None:
            self._places.doubt(slot.place)

    def seen(self) -> list[dict[str, Any]]:
        return self._places.seen(self._core.clock())

    def forget(self) -> None:
        """In a forked child."""
        self._bells.clear()
        self._places.forget()

    # -- What there is --------------------------------------------------------------------

    def _look(self, now: float) -> Look:
        """Under the lock."""
        slots, line = self._core.slots, self._core.line
        unused = [] if line else [now - slot.idle_since for slot in slots.idle]
        unused += [] if line else [now - one.slot.turned_at for one in self._unused(now)]
        return Look(
            idle=dispensable(unused, slots.staying(), RESTED, RESTED_LAST),
            spare=dispensable(unused, slots.staying(), SPARE, SPARE_LAST),
            resting=len(unused),
            spare_in=min([SPARE - one for one in unused if one < SPARE], default=SPARE),
            giving=len(slots.closing),
            waiting=len(line),
            wants=self._wanted() if line else 0,
            since=line[0].since if line else NEVER,
        )

    def _wanted(self) -> int:
        """Under the lock: how many connections it would open, had it the places."""
        wanted = 0
        while wanted < MOST_WANTED and self._crew.would_open(wanted):
            wanted += 1
        return wanted

    def _unused(self, now: float) -> list[offers.Offer]:
        """Under the lock: what borrowers offer to whoever waits."""
        return [
            one
            for one in offers.unused(self._core)
            if one.slot.is_offered and now - one.slot.turned_at >= max(one.slot.patience, RESTED)
        ]

    # -- What others need -----------------------------------------------------------------

    def _give_up(self, number: int, now: float) -> list[offers.Offer]:
        """Under the lock: close so many idle ones; what has to be given back first is returned."""
        core = self._core
        if core.line:
            return []
        rested = [slot for slot in core.slots.idle if now - slot.idle_since >= RESTED]
        for slot in rested[:number]:
            core.slots.retire(slot, GIVEN_UP)
            core.slots.idle.remove(slot)
        ripe = sorted(self._unused(now), key=lambda one: one.slot.turned_at)
        ripe = ripe[: max(0, number - len(rested))]
        self._empty([one.slot for one in ripe])
        return ripe

    def _empty(self, slots: list[Slot]) -> None:
        """Under the lock: close these, as soon as they come back."""
        core = self._core
        for slot in slots:
            if slot.state is IDLE:
                core.slots.retire(slot, GIVEN_UP)
                core.slots.idle.remove(slot)
            elif slot.state is LOAN:
                slot.reason, slot.retire_at = GIVEN_UP, AT_ONCE

    def _complain(self) -> None:
        """Under the lock: have logged what there is to say of the bound."""
        complaints = self._places.complaints
        while complaints:
            text, *args = complaints.popleft()
            self._core.warn_later(logger, text, *args)
