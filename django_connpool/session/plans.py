"""Prepared statements whose tables have changed: forgotten, so that they fail once, not for ever.

A statement that was prepared fails with `cached plan must not change result type` once a migration
has changed what it returns, each time until it is prepared anew, which psycopg does not do.
"""

from __future__ import annotations

from typing import Any

from psycopg import Error
from psycopg.pq import DiagnosticField, TransactionStatus

from . import private

_NOT_SUPPORTED = b"0A000"
# That is a state for much else: what tells is the function that says it (of PostgreSQL's
# plancache.c), or the words, where another server does.
_PLACE = "RevalidateCachedQuery"
_WORDS = "cached plan must not change result type"


def note_error(conn: Any, state: bytes | None, result: Any) -> None:
    """A statement of a borrower has failed: called by its cursor, with the SQLSTATE.

    For what is left of the loan psycopg prepares anew, by other names. Then the session is
    replaced, and so are those that were opened before: what they have prepared is no better.
    """
    if state != _NOT_SUPPORTED:
        return
    place = result.error_field(DiagnosticField.SOURCE_FUNCTION) or b""
    words = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b""
    if place != _PLACE.encode() and _WORDS.encode() not in words:
        return
    private.forget_prepared(conn)
    slot = getattr(conn, "_slot", None)
    if slot is not None:
        slot.plans_are_stale()


def may_be_sent_again(error: Error, conn: Any) -> bool:
    """Whether a statement has failed for this reason alone, and has done nothing.

    The plan is looked at before it runs; an error without a context is not one of a function that
    was under way. In a transaction that has failed nothing can be sent again.
    """
    diag, pgconn = error.diag, conn.pgconn
    return (
        (diag.source_function == _PLACE or _WORDS in (diag.message_primary or ""))
        and diag.context is None
        and pgconn.transaction_status == TransactionStatus.IDLE
        and not pgconn.pipeline_status
    )
