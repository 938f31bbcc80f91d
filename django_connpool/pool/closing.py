"""Closing a connection so that the server has really let go of it when we say so.

A backend keeps its end of the socket open until its process is gone, on purpose, so that
a client can tell (the comment of `socket_close` in PostgreSQL's pqcomm.c). A successor
opened before that end of file would be one connection too many on the server. libpq closes
its descriptor when it says goodbye, so a duplicate is kept to listen on, below TLS too.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from psycopg import Error
from psycopg.pq import TransactionStatus

CLOSE_TIMEOUT = 1.0  # seconds


def say_goodbye(conn: Any, pgconn: Any) -> socket.socket | None:
    """Close a connection; return the socket on which its backend's end will show.

    `conn` is None when the borrower lost it. None when there is nothing to wait for.
    """
    try:
        end: socket.socket | None = socket.socket(fileno=os.dup(pgconn.socket))
    except (Error, OSError):
        end = None
    if pgconn.transaction_status == TransactionStatus.ACTIVE:
        # A busy backend reads our goodbye only when its statement ends.
        with suppress(Error):
            pgconn.get_cancel().cancel()
    if conn is None:
        pgconn.finish()
    else:
        conn._pool = None  # psycopg: close it, do not give it back
        conn.close()
    return end


def await_end(end: socket.socket | None, timeout: float = CLOSE_TIMEOUT) -> None:
    """Wait, at most `timeout` seconds, until the backend behind `end` has exited."""
    if end is None:
        return
    deadline = time.monotonic() + timeout
    with suppress(OSError), end:
        while (left := deadline - time.monotonic()) > 0:
            end.settimeout(left)
            if not end.recv(65536):
                return


def bury(pgconn: Any, grave: socket.socket) -> None:
    """Make an inherited connection harmless in a forked child, without a byte to the server.

    Its descriptor is replaced by `grave`, a socket whose peer is closed: whoever still
    holds the connection gets an end of file instead of the parent's answers, and libpq's
    goodbye goes nowhere. Merely closing the descriptor would let the number be reused,
    and the goodbye would go to a stranger.
    """
    with suppress(Error, OSError):
        os.dup2(grave.fileno(), pgconn.socket, inheritable=False)
