"""Threads of which one runs at a time, until it stops by itself: races in an order that is chosen.

An actor stops where a real thread would wait: in the queue, for a connect, for a close.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests import inside

PATIENCE = 10.0  # seconds until a test that hangs is called a failure


class Actor:
    """A thread that runs only within `go`."""

    def __init__(self, stage: Stage, play: Callable[[Actor], None]) -> None:
        self.stage = stage
        self.play = play
        self.place = "begin"  # where it stopped
        self.waiter: Any = None  # what it stands in line with
        self.failure: BaseException | None = None
        self.ended = False
        self._cue = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._answer: Any = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def go(self, answer: Any = None) -> None:
        """Let it run until it stops again; `answer` is what its `stop` returns, or raises."""
        assert not self.ended, "an actor is asked to go on after its end"
        self._answer = answer
        self._cue.release()
        assert self._done.acquire(timeout=PATIENCE), f"an actor hangs after {self.place!r}"
        if self.ended:
            self.thread.join(PATIENCE)
            self.stage.actors.pop(self.thread.ident, None)
        if self.failure is not None:
            raise self.failure

    def stop(self, place: str) -> Any:
        """In the actor's thread: wait for the next `go`."""
        assert not self.stage.lock_is_held(), f"the pool's lock is held while {place}"
        self.place = place
        self._done.release()
        self._cue.acquire()
        if isinstance(self._answer, BaseException):  # an interrupt
            raise self._answer
        return self._answer

    def _run(self) -> None:
        self.stage.actors[threading.get_ident()] = self
        self._cue.acquire()
        try:
            self.play(self)
        except BaseException as error:
            self.failure = error
        self.ended = True
        self._done.release()


class Stage:
    """The actors of a test. Other threads pass all the stops."""

    def __init__(self) -> None:
        self.actors: dict[int | None, Actor] = {}
        self.lock_is_held: Callable[[], bool] = lambda: False

    def pause(self, place: str) -> Any:
        actor = self.actors.get(threading.get_ident())
        return None if actor is None else actor.stop(place)

    def wait(self, waiter: Any, timeout: float) -> bool:
        """In place of a real wait in line: the test says when it is over."""
        actor = self.actors[threading.get_ident()]
        actor.waiter = waiter
        try:
            actor.stop("in line")
        finally:
            actor.waiter = None
        return inside.accept_wake_up(waiter)
