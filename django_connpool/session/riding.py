"""BEGIN and SAVEPOINT go to the server in one message with the next statement.

psycopg sends BEGIN alone and waits for the answer: one round trip more for each transaction. Here
both leave together, in libpq's pipeline mode, and are answered together. Only for what is the same
to the server when it comes that way (see `_is_alike`), and only by cursors that merge parameters
into the text, as Django's do unless `server_side_binding` is set; for all else BEGIN goes alone.

A savepoint that Django makes waits for the next statement, too: it is `deferred`, and whatever
else is done with the connection sends it first. One that is released before anything was sent is
never made.

Made of psycopg's private names, as fronts.py is.
"""

from __future__ import annotations

import re
import select
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any
from weakref import ref

import psycopg
from psycopg.generators import execute, fetch_many
from psycopg.pq import ExecStatus, TransactionStatus

from . import changes
from .foreign import BaseCursor, ClientCursor, Connection, is_class

IDLE, INTRANS = TransactionStatus.IDLE, TransactionStatus.INTRANS

# How a statement begins that is not told apart by how it was sent; see `_is_alike`.
_ALIKE = re.compile(r"\s*(?:select|insert|update|delete|with|savepoint)\b", re.IGNORECASE)
_LONG = 4096  # characters of a text from which on it is not remembered

_PREPARE, _SEND, _PREPARED = (
    getattr(owner, name, None)
    for owner, name in (
        (BaseCursor, "_maybe_prepare_gen"),
        (ClientCursor, "_execute_send"),
        (ClientCursor, "_get_prepared"),
    )
)


def can_ride(cursor_class: Any) -> bool:
    """Whether this psycopg, and libpq, can do it, and the class is made as psycopg's own."""
    return (
        is_class(cursor_class)
        and issubclass(cursor_class, ClientCursor)
        and None not in (_PREPARE, _SEND, _PREPARED)
        and all(hasattr(BaseCursor, name) for name in ("_check_results", "_set_results"))
        and all(hasattr(Connection, name) for name in ("_exec_command", "_get_tx_start_command"))
        and cursor_class._maybe_prepare_gen is BaseCursor._maybe_prepare_gen is _PREPARE
        and cursor_class._execute_send is ClientCursor._execute_send is _SEND
        and cursor_class._get_prepared is ClientCursor._get_prepared is _PREPARED
        and psycopg.Pipeline.is_supported()
    )


def let_ride(conn: Any) -> None:
    """Have BEGIN ride along with what the connection's present class of cursors sends."""
    found = changes.of(conn)
    if found is not None and can_ride(conn.cursor_factory):
        found.rider = conn.cursor_factory


def _is_alike(query: str) -> bool:
    """Whether a text is one statement that the server answers in the same way, however it comes.

    Several in one text cannot be sent so, COPY would not end, `$1` is another error, and what is
    sent for its effect is worth no risk.
    """
    if _ALIKE.match(query) is None or "$" in query:
        return False
    end = query.find(";")
    return end < 0 or not query[end + 1 :].strip()


_remembered = lru_cache(maxsize=512)(_is_alike)


def rides(cursor: Any, query: Any, known: changes.Changes) -> bool:
    """Whether a statement takes along what psycopg would send before it; then it will."""
    conn = cursor._conn
    pgconn = conn.pgconn
    if (
        known.judge.rides
        and isinstance(query, str)
        and pgconn.transaction_status in ((IDLE, INTRANS) if known.deferred else (IDLE,))
        and not pgconn.pipeline_status
        and not cursor._sends_alone
        and (_remembered if len(query) < _LONG else _is_alike)(query)
        and _is_silent(pgconn)  # last: it asks the system
    ):
        # It must not keep the cursor alive: a statement that cannot be made leaves it there.
        cursor._maybe_prepare_gen = partial(_take_along, ref(cursor), known)
        return True
    return False


def _is_silent(pgconn: Any) -> bool:
    """Whether the server has said nothing on its own. Why it ends the session, libpq would lose."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(pgconn.socket, select.POLLIN)
    return not asked.poll(0)


def _take_along(
    of: ref[Any], known: changes.Changes, pgq: Any, *, prepare: Any = None, binary: Any = None
) -> Generator[Any, Any, None]:
    """Stands in for `_maybe_prepare_gen`, once."""
    cursor: Any = of()
    del cursor._maybe_prepare_gen
    conn, pgconn = cursor._conn, cursor._pgconn
    before = [] if conn._autocommit or pgconn.pipeline_status else _before(conn, known)
    # (What is refused with `binary` is refused alone.)
    if before and not (cursor.format if binary is None else binary):
        begins = pgconn.transaction_status == IDLE
        known.deferred = ()
        failed = yield from _send_together(cursor, before, pgq)
        if failed is None:
            return
        if not begins or pgconn.transaction_status != IDLE:
            cursor._raise_for_result(failed)  # a savepoint was refused
        # Nothing was done. If the next succeeds, what stands in between knows no other way.
        yield from conn._exec_command(before[0])
        known.judge.rides = False
        known.deferred = tuple(before[1:])
    if before:
        yield from send_deferred(conn, known)
    yield from cursor._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)


def _before(conn: Any, known: changes.Changes) -> list[bytes]:
    """What has to be sent before a statement."""
    status = conn.pgconn.transaction_status
    begin = [conn._get_tx_start_command()] if status == IDLE else []
    return begin + (list(known.deferred) if status in (IDLE, INTRANS) else [])


def _send_together(cursor: Any, before: list[bytes], pgq: Any) -> Generator[Any, Any, Any]:
    """Send a statement and what goes before it; return the answer of what was refused of that."""
    pgconn = cursor._pgconn
    pgconn.enter_pipeline_mode()
    try:
        for command in before:
            pgconn.send_query_params(command, None)
        cursor._execute_send(pgq, force_extended=True)
        pgconn.pipeline_sync()
        answers = [(yield from execute(pgconn))[-1]]
        for _ in before[1:]:
            answers.append((yield from fetch_many(pgconn))[-1])
        results = yield from fetch_many(pgconn)
        try:
            yield from fetch_many(pgconn)  # that all is answered
        except psycopg.OperationalError:
            if results[-1].status != ExecStatus.FATAL_ERROR:  # which says why it has ended
                raise
    finally:
        with suppress(psycopg.Error):  # of a connection that is lost, or left in the middle
            pgconn.exit_pipeline_mode()
    failed = next((each for each in answers if each.status != ExecStatus.COMMAND_OK), None)
    if failed is None:
        cursor._check_results(results)
        cursor._set_results(results)
    return failed


# -- Savepoints -----------------------------------------------------------------------------


def defer(savepoint: bytes, cursor: Any) -> bool:
    """Have a savepoint made with the next statement; whether that is possible."""
    conn = cursor._conn
    known, pgconn = changes.of(conn), conn.pgconn
    if (
        known is None
        or known.rider is not type(cursor)
        or not known.judge.rides
        or conn._autocommit
        or pgconn.pipeline_status
        or pgconn.transaction_status not in (IDLE, INTRANS)
    ):
        return False
    known.deferred += (savepoint,)
    return True


def take_back(savepoint: bytes, cursor: Any) -> bool:
    """Forget a savepoint, and those after it, if it was not sent yet; whether it was not."""
    conn = cursor._conn
    known = changes.of(conn)
    if (
        known is None
        or savepoint not in known.deferred
        or conn.pgconn.transaction_status not in (IDLE, INTRANS)  # something has failed past this
    ):
        return False
    known.deferred = known.deferred[: known.deferred.index(savepoint)]
    return True


def go_back(savepoint: bytes, cursor: Any) -> bool:
    """Roll back to a savepoint, if it was not sent yet; whether it was not."""
    if not take_back(savepoint, cursor):
        return False
    cursor._conn._changes.deferred += (savepoint,)
    return True


def send_deferred(conn: Any, known: changes.Changes) -> Generator[Any, Any, None]:
    """Send what waits for a statement, each by itself."""
    before = _before(conn, known)
    known.deferred = ()
    for command in before:
        yield from conn._exec_command(command)


def send_now(conn: Any) -> None:
    """Send what waits for a statement. An error is left to what is done next, which it meets."""
    known = changes.of(conn)
    if known is not None and known.deferred:
        with suppress(psycopg.Error), conn.lock:
            conn.wait(send_deferred(conn, known))
