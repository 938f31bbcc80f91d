"""Getting a session out of what its last borrower left it in the middle of."""

from __future__ import annotations

from typing import Any

from psycopg import Connection, OperationalError, ProgrammingError
from psycopg.pq import TransactionStatus

from .changes import rolling_back

IDLE = TransactionStatus.IDLE
IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


def is_idle(conn: Any) -> bool:
    """Whether the session is neither in a transaction nor in the middle of anything."""
    pgconn = conn.pgconn
    return bool(pgconn.transaction_status == IDLE and not pgconn.pipeline_status)


def leave_transaction(conn: Connection[Any]) -> bool:
    """Roll an open transaction back; False when the connection cannot be used again.

    A connection in the middle of a statement, a COPY or a pipeline is not worth saving:
    what is still to come on its socket belongs to its last borrower.
    """
    if conn.pgconn.pipeline_status:
        return False
    if conn.pgconn.transaction_status not in IN_TRANSACTION:
        return is_idle(conn)
    try:
        with rolling_back(conn):
            conn.rollback()
    except (OperationalError, ProgrammingError):
        return False
    return is_idle(conn)
