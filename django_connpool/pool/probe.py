"""Is the connection alive? Asked of the socket for nothing, of the server rarely.

A server that closes a session says so on the socket, so an idle connection whose socket
has nothing to read is alive as far as anyone can tell without a round trip. What is
readable is read: a notice or a changed parameter is harmless, a FATAL or an end of file
is death (PostgreSQL docs, "Asynchronous Operations" in protocol-flow).
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from psycopg import OperationalError
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus

_DEADLY = (b"FATAL", b"PANIC")
PING_TIMEOUT = 5.0  # seconds


def socket_poll(fd: int) -> Callable[[int], Any]:
    """Return a function of milliseconds that is truthy when the socket has something to say."""
    if not hasattr(select, "poll"):  # Windows
        return lambda ms: select.select([fd], [], [], ms / 1000)[0]
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLPRI)
    return poller.poll


def survives_reading(pgconn: Any, poll: Callable[[int], Any]) -> bool:
    """Read what is waiting on an idle connection; False when it was the end of it.

    libpq treats a FATAL that comes in between queries as a notice, so the notices are
    listened to: between that message and the end of file there may be a moment in which
    nothing else tells.
    """
    last_words: list[bytes | None] = []
    forward = pgconn.notice_handler

    def listen(result: Any) -> None:
        last_words.append(result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED))
        if forward is not None:
            forward(result)

    pgconn.notice_handler = listen
    try:
        while poll(0):
            pgconn.consume_input()
            if pgconn.is_busy() or pgconn.status != ConnStatus.OK:
                return False
            if any(severity in _DEADLY for severity in last_words):
                return False
            while pgconn.notifies() is not None:
                pass  # nobody has borrowed this session, so nobody is listening
    except OperationalError:
        return False
    finally:
        pgconn.notice_handler = forward
    return bool(pgconn.status == ConnStatus.OK)


def ping(pgconn: Any, poll: Callable[[int], Any], timeout: float = PING_TIMEOUT) -> bool:
    """Ask the server for an empty query's answer; at most `timeout` seconds.

    Done below psycopg's cursor, so that neither the session nor the connection object
    (autocommit, prepared statements, row factories) notices.
    """
    deadline = time.monotonic() + timeout
    try:
        pgconn.send_query(b"")
        while pgconn.flush():
            if time.monotonic() > deadline:
                return False
            select.select([], [pgconn.socket], [], 0.05)
        while True:
            while pgconn.is_busy():
                left = deadline - time.monotonic()
                if left <= 0 or not poll(max(1, int(left * 1000))):
                    return False
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return bool(pgconn.transaction_status == TransactionStatus.IDLE)
            if result.status == ExecStatus.FATAL_ERROR:
                return False
    except OperationalError:
        return False
