"""The borrowers in line, first come, first served."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import takewhile
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .slot import Loans, Slot


class Waiter:
    """A borrower in the queue, with its own wake-up.

    It is served by `slot` or `error` being set, under the pool's lock, before `gate` is
    opened. A waiter that gives up looks at them under the same lock: so a slot is either
    accepted or still with its giver, never with nobody.
    """

    __slots__ = ("error", "gate", "loans", "since", "slot", "tries")

    def __init__(self, since: float, tries: int, loans: Loans) -> None:
        self.since = since
        self.loans = loans  # of its thread
        self.tries = tries  # how often it has asked so far: again, when what it got was dead
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        # Looked up now: gevent may patch it after this module was imported.
        self.gate = gate = threading.Lock()
        gate.acquire()

    def begin_again(self) -> None:
        """Get ready to stand in line once more; what it was given is gone."""
        self.slot = None
        self.gate.acquire(blocking=False)

    def wait(self, timeout: float) -> bool:
        """Sleep until served, at most `timeout` seconds; say whether woken."""
        if timeout <= 0:
            return self.gate.acquire(False)
        return self.gate.acquire(True, timeout if timeout < TIMEOUT_MAX else TIMEOUT_MAX)


class WaitQueue(OrderedDict[Waiter, None]):
    """Waiters in order of arrival; joining, leaving and serving cost the same at any length.

    An ordered dictionary, because a waiter that times out leaves from the middle, for
    which a deque would have to search. A newcomer takes its place as a key, with None as its
    value. The pool's lock guards it.
    """

    def rejoin(self, waiter: Waiter) -> None:
        """Take a place by arrival: of one that was served something dead."""
        self[waiter] = None
        before = list(takewhile(lambda other: other.since < waiter.since, self))
        for one in reversed([*before, waiter]):
            self.move_to_end(one, last=False)

    def leave(self, waiter: Waiter) -> None:
        self.pop(waiter, None)

    def let_go(self, waiter: Waiter) -> None:
        """Open the gate of one that is served; doing it twice is harmless."""
        # In this order: after an interrupt it is in line and found again, or awake and leaves.
        if waiter.gate.locked():
            waiter.gate.release()
        self.pop(waiter, None)

    def first(self) -> Waiter:
        return next(iter(self))
