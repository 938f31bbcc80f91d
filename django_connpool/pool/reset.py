"""Making a session that comes back the one that went out."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from psycopg import Connection, OperationalError, ProgrammingError
from psycopg.pq import ExecStatus, TransactionStatus

IDLE = TransactionStatus.IDLE
_IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)

# What a borrower can set on the connection object, with no word to the server.
# Several of them change how the next borrower's statements run.
_NAMES = ("autocommit", "isolation_level", "read_only", "deferrable")
_public = attrgetter(*_NAMES)
_behind = attrgetter(*(f"_{name}" for name in _NAMES))


def session_reader(conn: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads these attributes of a connection.

    Four properties cost a tenth of a whole loan, so where psycopg keeps the values behind
    them (it does in 3.2 and 3.3) they are read from there.
    """
    try:
        return _behind if _behind(conn) == _public(conn) else _public
    except AttributeError:
        return _public


def leave_transaction(conn: Connection[Any]) -> bool:
    """Roll an open transaction back; False when the connection cannot be used again.

    A connection in the middle of a statement, a COPY or a pipeline is not worth saving:
    what is still to come on its socket belongs to its last borrower.
    """
    if conn.pgconn.pipeline_status:
        return False
    if conn.pgconn.transaction_status not in _IN_TRANSACTION:
        return bool(conn.pgconn.transaction_status == IDLE)
    try:
        conn.rollback()
    except (OperationalError, ProgrammingError):
        return False
    return bool(conn.pgconn.transaction_status == IDLE)


def restore(conn: Connection[Any], birth: tuple[Any, ...]) -> None:
    """Set the connection object's own attributes back to those of its birth."""
    for name, value in zip(_NAMES, birth, strict=True):
        if getattr(conn, name) != value:
            setattr(conn, name, value)


def discard_all(conn: Connection[Any]) -> bool:
    """Give the session the state of a new one (PostgreSQL docs, DISCARD ALL).

    Sent below psycopg's cursors: on a connection that prepares statements, the sixth
    DISCARD ALL would itself be prepared, and then discard itself.
    """
    result = conn.pgconn.exec_(b"DISCARD ALL")
    # psycopg must not believe in prepared statements that are gone. Its cache has no
    # public way to say so.
    conn._prepared.clear()
    return bool(result.status == ExecStatus.COMMAND_OK)
