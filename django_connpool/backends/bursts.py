"""Statements that follow upon each other at once share a loan, also while others wait.

With `release: "transaction"` each statement borrows for itself. When borrowers stand in line,
each then ends with a change of threads that costs more than a short statement. So a thread
that is seen to go on at once sets its connection *aside* instead of giving it back: it is in
a list with one element, and belongs to whoever pops it. That is the owner, who begins the
next statement; or who comes to borrow when it has been there for too long; or, when nobody
comes, the maintenance thread; or whoever ends the owner's work. In every other respect the
owner has given it back.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from django_connpool.process import forks
from django_connpool.process.background import NEVER, background

from .recall import give_back, give_back_in_a_thread

SHORT = 0.001  # seconds between two statements of a burst, at most
LONGEST = 0.05  # seconds a loan may last for the sake of a burst
LOOK = 0.02  # seconds between two looks of the maintenance thread
# What a thread does next is guessed from what it did after as many statements of earlier work: the
# first query of a request may precede a call of another service, and the others be one burst.
PAUSES = 16  # told apart
# Who did not go on has held a connection for nothing: so many hand-overs saved are worth that, and
# no more count.
LOSS = 16


class Bursts:
    """The connections set aside, of all wrappers."""

    def __init__(self) -> None:
        self._ticket = background.join(self)
        self.start_empty()

    def start_empty(self) -> None:
        """At first, and in a forked child."""
        # Oldest first; those whose owner went on are empty, and drop out in their turn.
        self.aside: deque[tuple[float, list[Any]]] = deque()
        # The maintenance thread will look, and go on while there is anything. Whoever puts
        # something there looks at this afterwards, and `run` looks again once it has cleared it.
        self.is_watched = False

    def watch(self, now: float) -> None:
        """Have the maintenance thread look at what is in `aside`, as long as there is anything."""
        self.is_watched = True
        try:
            self._ticket.by(now + LOOK)
        except BaseException:
            self.is_watched = False
            raise

    def collect(self, now: float) -> None:
        """Give back what has been set aside for too long. Several threads may do so at a time."""
        taken: list[Any] = []
        try:
            self._take(now, taken)
        finally:
            give_back(taken)

    def _take(self, now: float, taken: list[Any]) -> None:
        try:
            while (oldest := self.aside[0])[0] <= now - SHORT:
                if oldest[1]:
                    taken += popped(oldest[1])
                self.aside.remove(oldest)
        except (IndexError, ValueError):
            pass  # there are no more, or another thread is about it

    def run(self, now: float) -> float:
        """For the maintenance thread."""
        taken: list[Any] = []
        self._take(now, taken)
        give_back_in_a_thread(taken)
        if self.aside:
            return now + LOOK
        self._ticket.leave()
        self.is_watched = False
        if self.aside:
            self.watch(now)
        return NEVER


def popped(aside: list[Any]) -> list[Any]:
    """The connection, if nobody else has taken it yet."""
    try:
        return [aside.pop()]
    except IndexError:
        return []


bursts = Bursts()

forks.in_child(bursts.start_empty, forks.Floor.LOANS)
