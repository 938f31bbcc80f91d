"""What a pool has of the bounds that it shares with others.

It starts no thread, and takes no lock but those of `table.py`: the pool calls it under its own
lock, when it wants to open one more connection, when one is gone, and now and then while somebody
waits (`tick`).
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from django_connpool.pool.protocols import Look, Plan
from django_connpool.pool.sharing import RESTED

from . import policy
from .ledger import AFTER_GOODBYE, Ledger, Record, Unusable
from .policy import ASLEEP, DEFER, FAST, LONG, NEVER, SLOW_TICK, TICK, Claim
from .terms import Bound, Hold

RING_FIRST = 0.01  # seconds between two rings at first, and at last
RING_LAST = 0.16


class Tenant:
    """A pool's places of each of its bounds. The pool's lock guards all of it."""

    def __init__(self, name: str, role: str, bounds: Sequence[Bound], is_strict: bool) -> None:
        """`is_strict`: where the state for a host cannot be had, nothing is opened."""
        self.name = name
        self.role = role
        self.bounds = tuple(bounds)
        self.is_strict = is_strict
        self.complaints: deque[tuple[Any, ...]] = deque()  # texts to log, with their arguments
        self._said: set[object] = set()
        self._ring: Callable[[], None] = _nobody
        self._begin()

    def _begin(self) -> None:
        self._holds: list[Hold | None] | None = None  # None in it: it does without that bound
        self._held: dict[int, list[int | None]] = {}  # place of the pool's: that of each bound
        self._doubted: set[int] = set()  # those that rest for a while when they are given back
        self._granted: list[int] = []  # those that no connection is being opened for yet
        self._tokens = itertools.count(1)
        self._claim = Claim(0)  # as it was told last
        self.is_waiting = False  # there was no place for a connection that is wanted
        self._deferred_since = NEVER
        self._parted_at = -NEVER
        self._parting_with: int | None = None  # so many, of which the next to come back goes
        self._ring_at = -NEVER
        self._ring_pause = RING_FIRST
        self._lacks_bells = True

    def attach(self, ring: Callable[[], None]) -> None:
        """`ring` has `tick` called soon; it takes no lock."""
        self._ring = ring

    def forget(self) -> None:
        """In a forked child: the places are the parent's."""
        for hold in self._holds or ():
            if hold is not None:
                hold.forget()
        for bound in self.bounds:
            if bound.table is not None:
                bound.table.begin_anew()
        self._begin()

    def leave(self, now: float) -> None:
        """The pool is closed and empty."""
        holds, self._holds = self._holds, None
        for hold in holds or ():
            if hold is not None:
                hold.leave(now)
        self._begin()

    # -- To open one ----------------------------------------------------------------------

    def may_open(self, coming: int) -> bool:
        """Whether it is worth the while to ask for a place, beside so many that are asked for."""
        return not self.is_waiting or coming < len(self._granted)

    def take(self, now: float) -> int | None:
        """A place for one more connection; None when there is none now, and `tick` will tell."""
        if self._granted:
            return self._granted.pop()
        if self.is_waiting:
            return None
        place = self._try(now)
        if place is None:
            self.is_waiting = True
        else:
            for hold in self._holds or ():
                if hold is not None:
                    self._tell_next(hold, now)  # there may be one for the next, too
        if place is None or self._lacks_bells:
            self._ring()
        return place

    def doubt(self, place: int) -> None:
        self._doubted.add(place)

    def keep(self, held: Collection[int], now: float) -> None:
        """Only these of its places are used."""
        for token in [one for one in self._held if one not in held and one not in self._granted]:
            self._drop(token, now, AFTER_GOODBYE if token in self._doubted else 0.0)
            self._doubted.discard(token)
        for number, hold in enumerate(self._holds or ()):
            # What an interrupt has struck between the two belongs to no place of the pool's.
            known = {parts[number] for parts in self._held.values() if number < len(parts)}
            if hold is not None:
                for place in hold.places - known:
                    self._free(hold, place, now)

    def _drop(self, token: int, now: float, rest: float = 0.0) -> None:
        parts = self._held.pop(token)
        for hold, place in zip(self._holds or (), parts, strict=False):
            if hold is None or place is None:
                continue
            self._free(hold, place, now, rest)

    def _free(self, hold: Hold, place: int, now: float, rest: float = 0.0) -> None:
        try:
            hold.free(place, now, rest)
            self._tell_next(hold, now)
        except OSError as error:
            self._complain("%s: giving a place back failed: %s", error)

    def _try(self, now: float) -> int | None:
        """One place of each bound, or none at all."""
        try:
            holds = self._join(now)
        except (Unusable, OSError) as error:
            self._complain("%s: no connection is opened, for its bound cannot be kept: %s", error)
            return None
        token = next(self._tokens)
        parts = self._held[token] = [None] * len(holds)  # first, so that it is found, and freed
        try:
            for number, (bound, hold) in enumerate(zip(self.bounds, holds, strict=True)):
                if hold is not None:
                    parts[number] = self._try_one(bound, hold, now)
                    if parts[number] is None:
                        self._drop(token, now)
                        return None
        except OSError as error:
            self._complain("%s: no connection is opened, for its bound cannot be kept: %s", error)
            self._drop(token, now)
            return None
        self._deferred_since = NEVER
        return token

    def _try_one(self, bound: Bound, hold: Hold, now: float) -> int | None:
        others = hold.others(now)
        me = Claim(
            *(hold.number, len(hold.places), 0, 0, 0),
            *(self._claim.waiting, 1, min(self._claim.since, now)),
        )
        if not policy.is_first(me, [one.claim for one in others]):
            # A moment, in case that who comes first does not come.
            self._deferred_since = min(self._deferred_since, now)
            if now - self._deferred_since < DEFER:
                return None
        return hold.take(bound.places(self.role, self._most(bound, others)), now)

    def _most(self, bound: Bound, others: Sequence[Record]) -> int:
        """How many there may be: where members have asked for different bounds, the least."""
        for one in others:
            if one.bound != bound.most:
                self._complain(
                    "%s: two bounds for %s, %d here and %d in process %d: %d holds",
                    *(bound.name, bound.most, one.bound, one.pid, min(bound.most, one.bound)),
                    key=(bound.name, one.bound),
                )
        return min([bound.most, *(one.bound for one in others)])

    # -- Members --------------------------------------------------------------------------

    def _join(self, now: float) -> list[Hold | None]:
        """Its hold on each bound, made if there was none. Raises Unusable, OSError."""
        if self._holds is None:
            self._holds = [self._join_one(bound, now) for bound in self.bounds]
        for number, hold in enumerate(self._holds):
            if hold is not None and not hold.is_there():
                self._join_again(number, hold, now)
        return self._holds

    def _join_one(self, bound: Bound, now: float) -> Hold | None:
        try:
            return bound.join(self.name, self._ring, now)
        except (Unusable, OSError) as error:
            if self.is_strict:
                raise
            self._complain(
                "%s: %s is not kept, only max_size is: %s", bound.name, error, key=bound.name
            )
            return None

    def _join_again(self, number: int, old: Hold, now: float) -> None:
        """Somebody has removed the file: take in the new one the places that are used."""
        self._complain("%s: the file of %s was removed: joining anew", self.bounds[number].name)
        new = self._holds[number] = self._join_one(self.bounds[number], now)  # type: ignore[index]
        for parts in self._held.values():
            place = parts[number]
            if place is not None and new is not None:
                parts[number] = new.take([place, *range(self.bounds[number].most)], now)
        old.forget()
        self._lacks_bells = True

    def bells(self) -> list[socket.socket]:
        """What becomes readable when others want `tick` to be called."""
        if self._lacks_bells and self._holds is not None:
            self._lacks_bells = False
            for hold in self._holds:
                if isinstance(hold, Ledger) and hold.bell is None:
                    try:
                        hold.hang_bell()
                    except OSError as error:
                        self._complain("%s: others cannot tell that they wait: %s", error)
        found = [hold.bell for hold in self._holds or () if isinstance(hold, Ledger)]
        return [bell for bell in found if bell is not None]

    def silence(self) -> None:
        """Read what rang."""
        for hold in self._holds or ():
            if isinstance(hold, Ledger):
                hold.silence_bell()

    # -- Now and then ---------------------------------------------------------------------

    def tick(self, look: Look, now: float) -> Plan:
        """Tell the others what there is, look what they say, and decide what to do."""
        if self._holds is None and not look.wants:  # nobody has ever asked
            self.is_waiting = False
            return Plan(0, False, frozenset(), False, NEVER)
        if not look.wants:  # any more
            self.is_waiting = False
            while self._granted:
                self._drop(self._granted.pop(), now)
        place = self._come(look, now)
        gives, parts, awaited = 0, False, ASLEEP
        beyond: set[int] = set()
        try:
            for number, hold in enumerate(self._holds or ()):
                if hold is None:
                    continue
                found = self._decide(number, hold, look, now, place)
                gives, parts = max(gives, found[0]), parts or found[1]
                awaited = max(awaited, found[2])
                beyond |= found[3]
        except OSError as error:
            self._complain("%s: what others want cannot be read: %s", error)
        parts = self._goes_on_parting(parts, bool(awaited), look, now)
        again = now + self._pause(awaited if self._held else ASLEEP, look)
        return Plan(gives, parts, frozenset(beyond), place, again)

    def _pace(self, hold: Hold, awaited: int) -> int:
        mine = policy.pace([self._claim]) if self.is_waiting else ASLEEP
        return max(mine, awaited if hold.places else ASLEEP)

    def _pause(self, awaited: int, look: Look) -> float:
        """Seconds until it looks again."""
        pace = max(
            [self._pace(hold, awaited) for hold in self._holds or () if hold], default=ASLEEP
        )
        if pace == ASLEEP:
            return NEVER
        if pace == FAST:
            return RESTED if look.resting and awaited == FAST else TICK
        return min(SLOW_TICK, max(look.spare_in, RESTED)) if awaited else SLOW_TICK

    def _goes_on_parting(self, parts: bool, awaited: bool, look: Look, now: float) -> bool:
        """Until something has come back, or nobody waits any more."""
        staying = len(self._held) - len(self._granted) - look.giving
        if self._parting_with is not None and staying < self._parting_with:
            self._parting_with, self._parted_at = None, now
            return False
        if not awaited:
            self._parting_with = None
        elif parts and self._parting_with is None:
            self._parting_with = staying
        return self._parting_with is not None

    def _come(self, look: Look, now: float) -> bool:
        """Take a place for what is wanted; whether there is one."""
        if not look.wants or not self.is_waiting:
            return False
        place = self._try(now)
        if place is None:
            return False
        self._granted.append(place)
        self.is_waiting = False
        return True

    def _decide(
        self, number: int, hold: Hold, look: Look, now: float, has_come: bool
    ) -> tuple[int, bool, int, set[int]]:
        """Of one bound: what to give up, how others wait, which places are no more."""
        bound = self.bounds[number]
        records = hold.others(now)
        others = [one.claim for one in records]
        wants = look.wants if self.is_waiting else 0
        me = Claim(
            *(hold.number, len(hold.places), look.idle, look.spare, look.giving),
            *(look.waiting, wants, look.since),
        )
        self._claim = me
        awaited = policy.pace(others)
        hold.say(me, self._pace(hold, awaited), now)
        if has_come:  # there may be one for the next, too
            _ring_first(hold, records)
        most = self._most(bound, records)
        free = most - me.held - sum(one.held for one in others)
        if wants:
            self._ring_others(hold, records, now)
        gives = policy.gives_idle(me, others, free)
        parts = not gives and policy.parts(me, others, free, now, self._parted_at)
        beyond = {
            token
            for token, places in self._held.items()
            if (place := places[number]) is None or place >= most
        }
        return gives, parts, awaited, beyond

    def _ring_others(self, hold: Hold, records: Sequence[Record], now: float) -> None:
        """Wake those who have something and do not look as often; less and less often."""
        mine = policy.pace([self._claim])
        asleep = [one for one in records if one.claim.held and one.pace < mine]
        if not asleep or now < self._ring_at:
            return
        is_new = now - self._ring_at > LONG
        self._ring_pause = RING_FIRST if is_new else min(2 * self._ring_pause, RING_LAST)
        self._ring_at = now + self._ring_pause
        for one in asleep:
            hold.ring(one.claim.number)

    def _tell_next(self, hold: Hold, now: float) -> None:
        """There may be a place that is free."""
        try:
            _ring_first(hold, hold.others(now))
        except OSError as error:
            self._complain("%s: what others want cannot be read: %s", error)

    def _complain(self, text: str, *args: object, key: object = None) -> None:
        """Once for each cause."""
        cause = key or (text, *map(str, args))
        if cause not in self._said:
            self._said.add(cause)
            self.complaints.append((text, *args))

    # -- What there is to see -------------------------------------------------------------

    def seen(self, now: float) -> list[dict[str, Any]]:
        """Each bound, and what its members say."""
        found = []
        for bound, hold in zip(self.bounds, self._holds or [None] * len(self.bounds), strict=True):
            members: list[dict[str, Any]] = []
            most = bound.most
            if hold is not None:
                try:
                    others = hold.others(now)
                except OSError:
                    others = []
                most = min([most, *(one.bound for one in others)])
                members = [
                    {
                        "pid": one.pid,
                        "pool": one.name,
                        "held": one.claim.held,
                        "waiting": one.claim.waiting,
                    }
                    for one in others
                ]
            found.append(
                {
                    "name": bound.name,
                    "of_host": bound.is_of_host,
                    "role": self.role,
                    "most": most,
                    "reserve": bound.reserve,
                    "kept": hold is not None or self._holds is None,
                    "held": len(hold.places) if hold is not None else 0,
                    "waits": self.is_waiting,
                    "lost": hold.lost if hold is not None else 0,
                    "others": members,
                }
            )
        return found


def _ring_first(hold: Hold, others: Sequence[Record]) -> None:
    waiting = [one.claim for one in others if one.claim.wants]
    if waiting:
        hold.ring(min(waiting, key=policy.rank).number)


def _nobody() -> None:
    """Nobody is there to be told."""
