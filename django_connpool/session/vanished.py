"""Statements that will never be answered: of a host that has vanished, or a server that is stopped.

With a `command_timeout` the server ends each statement itself. One that goes on for longer and
whose socket is silent is hung, unless its borrower has raised the limit: so the server is asked,
on a connection of its own, for the first byte that any answers with before it knows who asks.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any

from psycopg import Error
from psycopg.pq import TransactionStatus

from .closing import End

ANSWER_TIMEOUT = 2.0  # seconds for it to say that it is alive

_SSL_REQUEST = struct.pack("!II", 8, 80877103)  # PostgreSQL docs, "Message Formats"
# Of `struct tcp_info` in <linux/tcp.h>: tcpi_backoff, tcpi_rto (microseconds), and, in
# milliseconds, tcpi_last_data_sent, _last_ack_sent, _last_data_recv.
_TCP_INFO = struct.Struct("=4xB3xI32xIII")


def is_busy(pgconn: Any) -> bool:
    """Whether a statement is under way, as far as can be seen from another thread."""
    with suppress(Error):
        return bool(pgconn.transaction_status == TransactionStatus.ACTIVE)
    return False


def silence(end: End | None) -> float:
    """For how many seconds nothing was sent nor came; 0 where the system does not tell."""
    tcp_info = getattr(socket, "TCP_INFO", None)
    if end is None or tcp_info is None:
        return 0.0
    try:
        told = end.getsockopt(socket.IPPROTO_TCP, tcp_info, _TCP_INFO.size)
        backoff, rto, sent, _, came = _TCP_INFO.unpack(told)
    except (OSError, struct.error):  # a Unix socket: its other end does not vanish
        return 0.0
    # What nobody acknowledges is sent again, each time after twice as long: so long ago it was new.
    again = rto / 1e6 * (1 - 0.5**backoff)
    return float(min(sent / 1000 + again, came / 1000))


def answers(pgconn: Any, timeout: float = ANSWER_TIMEOUT) -> bool:
    """Whether the server behind a connection, or what stands before it, is alive."""
    try:
        host, port = (pgconn.hostaddr or pgconn.host).decode(), int(pgconn.port)
        with socket.create_connection((host, port), timeout) as asking:
            asking.settimeout(timeout)
            asking.sendall(_SSL_REQUEST)
            return bool(asking.recv(1))
    except (Error, OSError, ValueError):
        return False


def give_up(end: End | None) -> None:
    """End the connection on our side, so that who waits for its answer gets an error."""
    if end is not None:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
