"""The same as a ledger, in memory: a bound that pools of one process share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from .ledger import Record
from .policy import Claim


class Table:
    """Who has which place. `lock` guards all of it; nothing is called inside."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """When new, and in a forked child."""
        self.lock = threading.RLock()
        self.taken: dict[int, tuple[int, float]] = {}  # place: seat; until when it rests
        self.seats: dict[int, Seat] = {}


class Seat:
    """A member's hold on the table. See Ledger."""

    lost = 0

    def __init__(self, table: Table, bound: int, name: str, ring: Callable[[], None]) -> None:
        self.bound, self.name = bound, name
        self.places: set[int] = set()
        self.record: Record | None = None
        self._table = table
        self._answer = ring
        with table.lock:
            self.number = max(table.seats, default=0) + 1
            table.seats[self.number] = self

    def leave(self, now: float) -> None:
        with self._table.lock:
            self._table.seats.pop(self.number, None)
            for place in list(self.places):
                self.free(place, now)

    def forget(self) -> None:
        """In a forked child: everybody begins anew."""
        self.places = set()

    def take(self, wanted: Iterable[int], now: float) -> int | None:
        table = self._table
        with table.lock:
            for place in wanted:
                holder, until = table.taken.get(place, (0, 0.0))
                if not holder and now >= until:
                    self.places.add(place)
                    table.taken[place] = self.number, 0.0
                    return place
        return None

    def free(self, place: int, now: float, rest: float = 0.0) -> None:
        with self._table.lock:
            if self._table.taken.get(place, (0, 0.0))[0] == self.number:  # see Ledger.free
                self._table.taken[place] = 0, now + rest if rest else 0.0
            self.places.discard(place)

    def say(self, claim: Claim, pace: int, now: float) -> None:
        own = replace(claim, number=self.number, held=len(self.places))
        self.record = Record(own, os.getpid(), self.name, self.bound, pace, now)

    def others(self, now: float) -> list[Record]:
        with self._table.lock:
            seats = list(self._table.seats.values())
        return [seat.record for seat in seats if seat is not self and seat.record is not None]

    def is_there(self) -> bool:
        return True

    def ring(self, number: int) -> None:
        seat = self._table.seats.get(number)
        if seat is not None:
            seat._answer()
