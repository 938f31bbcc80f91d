"""Has the server behind a session turned read-only, or from standby to primary, since it began?

Servers from PostgreSQL 14 on tell of both by themselves, with the answer to whatever runs next
(PostgreSQL docs, "Asynchronous Operations"), so that asking costs nothing.
"""

from __future__ import annotations

import time
from typing import Any

from .statements import SETTINGS

READ_ONLY = b"25006"  # what a write in a read-only transaction fails with

# Seconds after which the name of a server may lead to another one than when the session began.
# Until then a session that was read-only from its birth is no reason to connect once more.
LOOK_AGAIN = 5.0

# What `target_session_attrs` asks for.
_WRITABLE = (b"read-write", b"primary")
_READ_ONLY = (b"read-only", b"standby")


class Role:
    """What the server was for a session when that began."""

    __slots__ = ("began", "read_only", "standby", "wanted")

    def __init__(self, pgconn: Any) -> None:
        self.began = time.monotonic()
        self.read_only, self.standby = _reported(pgconn)
        self.wanted = _wanted(pgconn)


def _reported(pgconn: Any) -> tuple[bytes | None, bytes | None]:
    status = getattr(pgconn, "parameter_status", None)
    if status is None:  # a driver of another kind
        return None, None
    return status(b"default_transaction_read_only"), status(b"in_hot_standby")


def _wanted(pgconn: Any) -> bytes:
    options = getattr(pgconn, "info", ())
    return next((o.val or b"" for o in options if o.keyword == b"target_session_attrs"), b"")


def has_turned(role: Role, pgconn: Any) -> bool:
    """Whether the server is known to be another than the one that was asked for."""
    read_only, standby = _reported(pgconn)
    if standby == b"on" and role.standby == b"off":
        return True
    if standby == b"off" and role.standby == b"on" and role.wanted in _READ_ONLY:
        return True
    return read_only == b"on" and role.read_only == b"off"


def after_refused_write(role: Role, pgconn: Any, dirt: int) -> tuple[bool, bool]:
    """What to think of a write that failed because of a read-only transaction.

    Return whether this connection is to be replaced, and whether every other of its time is.
    A borrower who has asked for a read-only transaction has himself to blame, and one who has
    changed settings may have. A server that was read-only when the session began may have been
    the old primary after a switch-over: its name leads elsewhere by now, or will.
    """
    now = _reported(pgconn)
    if None in now:  # an older server, or a pooler that does not pass it on
        return True, role.wanted in _WRITABLE
    turned = has_turned(role, pgconn) or (
        b"on" in now and role.wanted not in _READ_ONLY and _is_old(role)
    )
    return turned, turned and not dirt & SETTINGS


def _is_old(role: Role) -> bool:
    return time.monotonic() >= role.began + LOOK_AGAIN


def note_error(conn: Any, state: bytes | None) -> None:
    """A statement of a borrower has failed: called by its cursor, with the SQLSTATE."""
    if state == READ_ONLY:
        slot = getattr(conn, "_slot", None)
        if slot is not None:
            slot.write_was_refused()
