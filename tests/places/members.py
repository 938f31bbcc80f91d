"""Pools that share a bound, without threads and on a clock that moves when told.

The rules, the tables and the locks are the real ones. What is played is the rest of each pool,
the server, and what befalls a process.
"""

from __future__ import annotations

import itertools
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.inside import places, sharing

NEVER = float("inf")
STEP = 0.005  # seconds of a turn: each pool looks, what is opened is open, what is closed is gone


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


class Server:
    """Counts its sessions."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.sessions: set[int] = set()
        self.dying: list[tuple[float, int]] = []  # of processes that were killed
        self.most = 0
        self._numbers = itertools.count()

    def open(self) -> int:
        session = next(self._numbers)
        self.sessions.add(session)
        self.most = max(self.most, len(self.sessions))
        return session

    def reap(self, now: float) -> None:
        for at, session in list(self.dying):
            if now >= at:
                self.dying.remove((at, session))
                self.sessions.discard(session)


class Member:
    """A pool of a process of its own."""

    def __init__(
        self, clock: Clock, server: Server, bounds: Sequence[Any], role: str = "", size: int = 99
    ) -> None:
        self.clock, self.server, self.size = clock, server, size
        self.tenant = places.Tenant("pool", role, bounds, is_strict=True)
        self.tenant.attach(self.wake)
        self.at = NEVER  # when it looks next
        self.is_stopped = self.is_dead = False
        self.line: list[float] = []  # since when each borrower waits
        self.idle: list[tuple[int, int, float]] = []  # place, session, since
        self.busy: list[tuple[int, int, float]] = []
        self.closing: list[tuple[int, int]] = []
        self.most = size
        self.served = 0
        self.longest = 0.0

    def wake(self) -> None:
        self.at = -NEVER

    @property
    def held(self) -> int:
        return len(self.idle) + len(self.busy) + len(self.closing)

    # -- What borrowers do ------------------------------------------------------------------

    def arrive(self) -> None:
        self.line.append(self.clock.now)
        self.serve()

    def finish(self) -> None:
        """The longest loan ends."""
        place, session, _ = self.busy.pop(0)
        if self.held + 1 - len(self.closing) > self.most:
            self.closing.append((place, session))
        else:
            self.idle.append((place, session, self.clock.now))
        self.serve()

    def serve(self) -> None:
        while self.line and self.idle:
            place, session, _ = self.idle.pop()
            self.lend(place, session)
        while self.line and self.wanted() and self.tenant.may_open(0):
            place = self.tenant.take(self.clock.now)
            if place is None:
                break
            self.lend(place, self.server.open())

    def lend(self, place: int, session: int) -> None:
        self.longest = max(self.longest, self.clock.now - self.line.pop(0))
        self.busy.append((place, session, self.clock.now))
        self.served += 1

    def wanted(self) -> int:
        return max(0, min(len(self.line), self.most - self.held))

    # -- What time brings -------------------------------------------------------------------

    def turn(self) -> None:
        if self.is_stopped or self.is_dead:
            return
        if self.closing:
            self.most = self.size
        for _, session in self.closing:
            self.server.sessions.discard(session)
        self.closing.clear()
        self.keep()
        self.serve()
        rung = select.select(self.tenant.bells(), [], [], 0)[0]
        if rung or self.at <= self.clock.now:
            self.look()

    def keep(self) -> None:
        slots = [*self.idle, *self.busy, *self.closing]
        self.tenant.keep({one[0] for one in slots}, self.clock.now)

    def look(self) -> None:
        now, self.most = self.clock.now, self.size
        rested = [] if self.line else [one for one in self.idle if now - one[2] >= 0.005]
        unused = [now - one[2] for one in rested]
        staying = self.held - len(self.closing)
        look = places.Look(
            idle=sharing.dispensable(unused, staying, sharing.RESTED, sharing.RESTED_LAST),
            spare=sharing.dispensable(unused, staying, sharing.SPARE, sharing.SPARE_LAST),
            resting=len(self.idle),
            spare_in=min([0.04 - one for one in unused if one < 0.04], default=0.04),
            giving=len(self.closing),
            waiting=len(self.line),
            wants=self.wanted() if self.line else 0,
            since=self.line[0] if self.line else NEVER,
        )
        self.tenant.silence()
        plan = self.tenant.tick(look, now)
        for one in rested[: plan.gives]:
            self.idle.remove(one)
            self.closing.append(one[:2])
        for one in list(self.idle):
            if one[0] in plan.beyond:
                self.idle.remove(one)
                self.closing.append(one[:2])
        if plan.parts:
            self.most = self.held - len(self.closing) - 1
        self.at = plan.again
        if plan.has_place:
            self.serve()

    # -- What befalls a process -------------------------------------------------------------

    def kill(self, lasts: float) -> None:
        """The kernel lets go of its locks at once, the server of its sessions a moment later."""
        self.is_dead = True
        now = self.clock.now
        self.server.dying += [
            (now + lasts, one[1]) for one in [*self.idle, *self.busy, *self.closing]
        ]
        self.idle, self.busy, self.closing, self.line = [], [], [], []
        self.tenant.forget()


def host_bound(folder: Path, most: int, **more: Any) -> Any:
    return places.Bound("a bound", most, path=folder / "shared.places", **more)


def turns(clock: Clock, server: Server, members: Sequence[Member], seconds: float) -> None:
    """Let time go by, with nobody coming and nobody leaving."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now += STEP
        server.reap(clock.now)
        for member in members:
            member.turn()
