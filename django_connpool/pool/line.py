"""The borrowers in line, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from threading import TIMEOUT_MAX
from typing import Any

from django_connpool.process.cpython import expect_free


class Waiter:
    """A borrower in the queue, with its own wake-up.

    It is served by `slot` or `error` being set, under the pool's lock, before `gate` is
    opened. A waiter that gives up looks at them under the same lock: so a slot is either
    accepted or still with its giver, never with nobody.
    """

    __slots__ = ("error", "gate", "left", "note", "since", "slot", "thread", "tries")

    def __init__(self, since: float, tries: int, note: object = None) -> None:
        self.since = since
        self.left = False  # it does not wait any more, and accepts nothing
        self.tries = tries  # how often it has asked so far: again, when what it got was dead
        self.slot: Any = None
        self.error: BaseException | None = None
        self.note = note  # what it waits for a connection for, as a slot's
        # Looked up now: gevent may patch them after this module was imported.
        self.thread = threading.get_ident()
        self.gate = gate = threading.Lock()
        gate.acquire()

    def again(self) -> Waiter:
        """The same borrower, to stand in line once more; what it was given is gone.

        Another object: whoever served this one may still be about to wake it.
        """
        return Waiter(self.since, self.tries, self.note)

    @property
    def task_name(self) -> str:
        """A task has one: see tasks.py."""
        return ""

    def leave_if_stopped(self) -> None:
        """Under the pool's lock. What stands still is the loop of a task: see tasks.py."""

    def wake(self) -> None:
        """Open its gate, once it is served; doing it twice is harmless."""
        try:
            self.gate.release()
        except RuntimeError as error:
            expect_free(error)

    def wait(self, timeout: float) -> bool:
        """Sleep until served, at most `timeout` seconds; say whether woken."""
        if timeout <= 0:
            return self.gate.acquire(False)
        return self.gate.acquire(True, timeout if timeout < TIMEOUT_MAX else TIMEOUT_MAX)


class Line(deque[Waiter]):
    """Waiters in order of arrival. The pool's lock guards it.

    Joining and serving cost the same at any length; leaving from the middle is a search.
    """

    def first(self) -> Waiter | None:
        """The first that nobody has served yet; those an interrupt has kept in line leave it."""
        while self:
            waiter = self[0]
            if waiter.slot is None and waiter.error is None and not waiter.left:
                return waiter
            self.let_go(waiter)
        return None

    def rejoin(self, waiter: Waiter) -> None:
        """Take a place by arrival: of one that was served something dead."""
        self.insert(sum(1 for _ in takewhile(lambda one: one.since < waiter.since, self)), waiter)

    def leave(self, waiter: Waiter) -> None:
        with suppress(ValueError):
            self.remove(waiter)

    def let_go(self, waiter: Waiter) -> None:
        """Wake one that is served, and have it leave; doing it twice is harmless."""
        # In this order: after an interrupt it is in line and found again, or awake and leaves.
        waiter.wake()
        self.leave(waiter)

    def refuse_all(self, error: Callable[[], BaseException]) -> None:
        """Nobody in it is served any more."""
        for waiter in list(self):
            waiter.error = error()
            self.let_go(waiter)

    def audit(self) -> None:
        """After an interrupt: nobody stands in line who is served, or has gone."""
        for waiter in list(self):
            if waiter.slot is not None or waiter.error is not None or waiter.left:
                self.let_go(waiter)
