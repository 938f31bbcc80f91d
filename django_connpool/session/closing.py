"""Closing a connection so that the server has really let go of it when we say so.

A backend keeps its end of the socket open until its process is gone, on purpose, so that
a client can tell (the comment of `socket_close` in PostgreSQL's pqcomm.c). A successor
opened before that end of file would be one connection too many on the server. libpq closes
its descriptor when it says goodbye, and a borrower may have it do so behind our back, so a
duplicate is kept to listen on, below TLS too.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeAlias

from psycopg import Error, OperationalError, capabilities
from psycopg.pq import PollingStatus, TransactionStatus

from .liveness import ready

CLOSE_TIMEOUT = 1.0  # seconds
AGAIN = 0.05  # seconds between attempts to interrupt a statement

Interrupt: TypeAlias = Callable[[float], None]  # is given the deadline, on the monotonic clock


class End(socket.socket):
    """The socket of a connection once more, on which the end of its backend will show."""

    def __del__(self) -> None:
        self.close()  # no ResourceWarning: it goes with the connection


def end_of(pgconn: Any) -> End | None:
    """Return where the end of a connection will show; None when that cannot be known."""
    try:
        return End(fileno=os.dup(pgconn.socket))
    except (Error, OSError):
        return None


def say_goodbye(conn: Any, pgconn: Any, lock: Any) -> Interrupt | None:
    """Close a connection; `conn` is None when the borrower lost it.

    `lock`: its own, which is held while it is used; None when nobody else can be using it. Return
    how to interrupt what its backend is busy with; None when it is not.
    """
    busy = pgconn.transaction_status == TransactionStatus.ACTIVE
    interrupt = interrupt_of(pgconn) if busy else None
    if lock is None:
        _close(conn, pgconn)
    elif lock.acquire(blocking=False):
        try:
            _close(conn, pgconn)
        finally:
            lock.release()
    else:
        _hang_up(conn, pgconn)
    return interrupt


def _close(conn: Any, pgconn: Any) -> None:
    if conn is None:
        pgconn.finish()
    else:
        conn.__dict__["_pool"] = None  # psycopg: close it, do not give it back
        conn.close()


def _hang_up(conn: Any, pgconn: Any) -> None:
    """Close a connection that another thread is in the middle of using.

    To have libpq close it would be to free what that thread is at, in C. So the server is told
    that nothing more will come; libpq's part goes when that thread lets go of the connection.
    """
    if conn is not None:
        conn.__dict__["_pool"] = None  # psycopg: it was closed on purpose
    with suppress(Error, OSError), socket.socket(fileno=os.dup(pgconn.socket)) as end:
        end.shutdown(socket.SHUT_WR)


def interrupt_of(pgconn: Any) -> Interrupt | None:
    with suppress(Error):
        if capabilities.has_cancel_safe():
            return partial(_cancel, pgconn.cancel_conn())
        request = pgconn.get_cancel()
        return lambda deadline: request.cancel()
    return None


def _cancel(request: Any, deadline: float) -> None:
    """Send a cancel request; libpq's blocking way would wait for an answer for ever.

    Raises OperationalError when the server has not taken it by the deadline.
    """
    request.reset()
    request.start()
    while (wanted := request.poll()) in (PollingStatus.READING, PollingStatus.WRITING):
        if not ready(request.socket, deadline, writing=wanted == PollingStatus.WRITING):
            raise OperationalError("the server did not take the request to cancel in time")
    if wanted != PollingStatus.OK:
        raise OperationalError(f"the request to cancel failed: {request.get_error_message()}")


def await_end(
    end: End | None, timeout: float = CLOSE_TIMEOUT, interrupt: Interrupt | None = None
) -> bool:
    """Wait, at most `timeout` seconds, until the backend behind `end` has exited; say whether.

    A busy backend reads our goodbye only when its statement ends, and a request to cancel
    that comes before the statement has begun is lost: so it is sent until it works.
    """
    deadline = time.monotonic() + timeout
    with suppress(OSError), end or nullcontext():
        while (now := time.monotonic()) < deadline:
            if interrupt is not None:
                with suppress(Error):
                    interrupt(deadline)
            if end is None:
                return False
            if _ends(end, min(deadline, now + AGAIN) if interrupt else deadline):
                return True
    return False


def _ends(end: End, deadline: float) -> bool:
    """Read what still comes; whether that ended before the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        end.settimeout(left)
        try:
            if not end.recv(65536):
                return True
        except TimeoutError:
            break
    return False


def discard(conn: Any) -> None:
    """Close a connection, if there is one yet, that nobody has, and wait until the server knows."""
    if conn is None:
        return
    end = end_of(conn.pgconn)
    await_end(end, interrupt=say_goodbye(conn, conn.pgconn, conn.lock))


def bury(pgconn: Any, grave: socket.socket) -> None:
    """Make an inherited connection harmless in a forked child, without a byte to the server.

    Its descriptor is replaced by `grave`, a socket whose peer is closed: whoever still
    holds the connection gets an end of file instead of the parent's answers, and libpq's
    goodbye goes nowhere. Merely closing the descriptor would let the number be reused,
    and the goodbye would go to a stranger.
    """
    with suppress(Error, OSError):
        os.dup2(grave.fileno(), pgconn.socket, inheritable=False)
