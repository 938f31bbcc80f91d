"""What there is to tell of a pool once its lock is free: to the log, and to who listens."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django_connpool.process import ending

if TYPE_CHECKING:
    from .protocols import Events

# What can happen, by the names that those who listen know.
WAITED = "connection_waited"
TIMED_OUT = "borrow_timed_out"
LEAKED = "connection_leaked"
CLOSED = "connection_closed"
OUTAGE_BEGAN = "outage_began"
OUTAGE_ENDED = "outage_ended"


class News:
    """Noted under the lock, told without it: a log handler or a receiver may borrow."""

    __slots__ = ("_happened", "_telling", "events", "pool", "warnings")

    def __init__(self, events: Events | None = None, pool: Any = None) -> None:
        self.events = events
        self.pool: weakref.ref[Any] | None = pool  # what is told of
        self.warnings: deque[Callable[[], None]] = deque()
        self._happened: deque[tuple[str, dict[str, object]]] = deque()
        self._telling = threading.Lock()  # held by the one who tells, so that it is in order

    def anew(self) -> News:
        """In a forked child: as at first."""
        return News(self.events, self.pool)

    def warn(
        self, logger: logging.Logger, text: str, args: tuple[object, ...], extra: dict[str, Any]
    ) -> None:
        """Note a warning for `log_warnings`."""
        self.warnings.append(lambda: logger.warning(text, *args, extra=extra))

    def log_warnings(self) -> None:
        """Log what there is to tell. Call without the lock."""
        while self.warnings:
            with suppress(IndexError):  # another thread took the last
                self.warnings.popleft()()

    def note(self, event: str, **facts: object) -> None:
        """Note what has happened for `tell`, if anybody listens."""
        if self.events is not None and self.events.are_heard(event) and not ending.is_ending():
            self._happened.append((event, facts))

    @property
    def is_out(self) -> bool:
        """Whether there is something for `tell` to do."""
        return bool(self._happened)

    def tell(self) -> None:
        """Tell of what has happened, in order. Call without the lock, and in no borrower's thread:
        a receiver may use the database.
        """
        # Again after the release: what is noted meanwhile is not told by who notes it.
        while self._happened and self._telling.acquire(False):
            try:
                while self._happened:
                    self.tell_here(*self._happened.popleft())
            finally:
                self._telling.release()

    def tell_here(self, event: str, facts: dict[str, object]) -> None:
        """Tell of it at once."""
        pool = None if self.pool is None else self.pool()
        if self.events is not None and pool is not None:
            self.events.tell(event, pool, facts)
