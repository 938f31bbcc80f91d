"""The borrowers in line, first come, first served."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import count, takewhile
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .slot import Slot

_numbers = count()


class Waiter:
    """A borrower in the queue, with its own wake-up.

    It is served by `slot` or `error` being set, under the pool's lock, before `gate` is
    opened. A waiter that gives up looks at them under the same lock: so a slot is either
    accepted or still with its giver, never with nobody.
    """

    __slots__ = ("error", "gate", "number", "since", "slot", "thread", "tries")

    def __init__(self, since: float, tries: int = 0) -> None:
        self.since = since
        self.number = next(_numbers)
        self.thread = threading.get_ident()
        self.tries = tries  # how often it has asked so far: again, when what it got was dead
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        # Looked up now: gevent may patch it after this module was imported.
        self.gate = gate = threading.Lock()
        gate.acquire()

    @property
    def turn(self) -> tuple[float, int]:
        """What the line is ordered by."""
        return self.since, self.number

    def begin_again(self) -> None:
        """Get ready to stand in line once more; what it was given is gone."""
        self.slot = None
        self.gate.acquire(blocking=False)

    def wait(self, timeout: float) -> bool:
        """Sleep until served, at most `timeout` seconds; say whether woken."""
        return self.gate.acquire(True, timeout if timeout < TIMEOUT_MAX else TIMEOUT_MAX)

    def wake(self) -> None:
        """Open the gate; doing it twice is harmless."""
        if self.gate.locked():
            self.gate.release()


class WaitQueue(OrderedDict[Waiter, None]):
    """Waiters in order of arrival; joining, leaving and serving cost the same at any length.

    An ordered dictionary, because a waiter that times out leaves from the middle, for
    which a deque would have to search. The pool's lock guards it.
    """

    def join(self, waiter: Waiter) -> None:
        """Take a place: the last, or its old one after it was served something dead."""
        before = []
        if waiter.tries:
            before = list(takewhile(lambda other: other.turn < waiter.turn, self))
            before.append(waiter)
        self[waiter] = None
        for one in reversed(before):
            self.move_to_end(one, last=False)
        waiter.tries += 1

    def leave(self, waiter: Waiter) -> None:
        self.pop(waiter, None)

    def first(self) -> Waiter:
        return next(iter(self))
