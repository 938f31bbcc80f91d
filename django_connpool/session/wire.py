"""What can be seen of a connection to the server without knowing what was done with it."""

from __future__ import annotations

from typing import Any

from psycopg import OperationalError
from psycopg.pq import ConnStatus

from . import liveness, vanished
from .closing import Interrupt, end_of, interrupt_of


def _nothing() -> None:
    """What a pool that does not check reads from its sockets."""


class Wire:
    """A connection of libpq's: whether it lives, and whether something is under way on it."""

    __slots__ = ("_consume_input", "_end", "_get_result", "_last_words", "backend_pid", "pgconn")

    def __init__(self, pgconn: Any, looks: bool) -> None:
        """`looks`: whether it is read from to tell that it lives."""
        self.pgconn = pgconn
        self._end = end_of(pgconn)
        self.backend_pid: int = pgconn.backend_pid
        self._consume_input = pgconn.consume_input if looks else _nothing
        self._get_result = pgconn.get_result if looks else _nothing
        self._last_words = pgconn.notice_handler = liveness.LastWords(pgconn.notice_handler)

    def is_alive(self) -> bool:
        """Read what is waiting on an idle connection; False when it was the end of it.

        Two calls that never block. Chosen because psycopg does not let go of the interpreter's
        lock in them, as it does in is_busy() and notifies(), and Python in poll() and select():
        with busy threads around, getting that back costs more than the whole loan.
        """
        try:
            self._consume_input()
            # Has libpq look at what it read. A result that nobody asked for is a session out of
            # step.
            unasked = self._get_result()
        except OperationalError:
            return False
        return unasked is None and not self._last_words.heard

    def is_busy(self) -> bool:
        """Whether a statement is under way, as far as can be seen from another thread."""
        return vanished.is_busy(self.pgconn)

    def interrupt(self) -> Interrupt | None:
        """How to have the server end the statement under way; None when there is none."""
        return interrupt_of(self.pgconn) if self.is_busy() else None

    def silence(self) -> float:
        """For how many seconds nothing was sent nor came; 0 where the system does not tell."""
        return vanished.silence(self._end)

    def has_vanished(self) -> bool:
        """Whether its server answers nobody any more. Takes seconds."""
        return not vanished.answers(self.pgconn)

    def give_up(self) -> None:
        """End the connection on our side, so that who waits for its answer gets an error."""
        vanished.give_up(self._end)

    @property
    def is_lost(self) -> bool:
        """Whether libpq knows that the connection is gone."""
        return bool(self.pgconn.status == ConnStatus.BAD)
