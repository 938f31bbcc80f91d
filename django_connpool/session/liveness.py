"""Is the connection alive? Asked of the socket for nothing, of the server rarely.

A server that ends a session says so on the socket, so an idle connection with nothing to
read is alive as far as anyone can tell without a round trip. What is there is read: a
notice or a changed parameter is harmless, a FATAL or an end of file is death (PostgreSQL
docs, "Asynchronous Operations" of the message flow).
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from psycopg import OperationalError
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

PING_TIMEOUT = 5.0  # seconds

_DEADLY_SEVERITIES = (b"FATAL", b"PANIC")
_DEADLY_STATES = b"57P0"  # shutdown, crash of a sibling, idle session: the session ends


class LastWords:
    """Listens to a connection's notices for the one that ends it; passes all of them on.

    libpq treats a FATAL that comes between two queries as a notice. Between that message
    and the end of file nothing else tells that the connection is dead.
    """

    __slots__ = ("_forward", "heard")

    def __init__(self, forward: Callable[[Any], None] | None) -> None:
        self._forward = forward
        self.heard = False

    def __call__(self, result: Any) -> None:
        severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
        state = result.error_field(DiagnosticField.SQLSTATE) or b""
        if severity in _DEADLY_SEVERITIES or state.startswith(_DEADLY_STATES):
            self.heard = True
        if self._forward is not None:
            self._forward(result)


class Answer:
    """The answer to a simple query that was sent, taken without blocking longer than wanted."""

    __slots__ = ("_failed", "pgconn")

    def __init__(self, pgconn: Any) -> None:
        self.pgconn = pgconn
        self._failed = False

    def outcome(self, patience: float = 0.0) -> bool | None:
        """Whether every statement succeeded; None when that is not known after so many seconds."""
        pgconn = self.pgconn
        deadline = None
        try:
            pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    deadline = deadline or time.monotonic() + patience
                    if not ready(pgconn.socket, deadline, writing=False):
                        return None
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    at_rest = pgconn.transaction_status == TransactionStatus.IDLE
                    return bool(at_rest and not self._failed)
                self._take(result)
        except OperationalError:
            return False

    def _take(self, result: Any) -> None:
        """One of its results has come."""
        self._failed |= result.status == ExecStatus.FATAL_ERROR


def ping(pgconn: Any, timeout: float = PING_TIMEOUT) -> bool:
    """Ask the server for an empty query's answer; at most `timeout` seconds.

    Done below psycopg's cursor, so that neither the session nor the connection object
    (autocommit, prepared statements, row factories) notices.
    """
    try:
        return ask(Answer(pgconn), b"", timeout)
    except OperationalError:
        return False


def ask(answer: Answer, text: bytes, patience: float) -> bool:
    """Send a simple query, and take its answer; whether every statement succeeded.

    Raises OperationalError when it has not come in so many seconds.
    """
    deadline = time.monotonic() + patience
    succeeded = None
    if send(answer.pgconn, text, deadline):
        succeeded = answer.outcome(deadline - time.monotonic())
    if succeeded is None:
        raise OperationalError("the server did not answer in time")
    return succeeded


def send(pgconn: Any, text: bytes, deadline: float) -> bool:
    """Send a simple query; False when that was not done by then. Raises OperationalError."""
    pgconn.send_query(text)
    while pgconn.flush():
        if not ready(pgconn.socket, deadline, writing=True):
            return False
    return True


def ready(fd: int, deadline: float, writing: bool) -> bool:
    """Wait until the socket can be read (or written); False when the deadline came first."""
    left = max(0.0, deadline - time.monotonic())
    if not hasattr(select, "poll"):  # Windows
        reading, written, _ = select.select(
            [] if writing else [fd], [fd] if writing else [], [], left
        )
        return bool(reading or written)
    poller = select.poll()
    poller.register(fd, select.POLLOUT if writing else select.POLLIN)
    return bool(poller.poll(left * 1000))
