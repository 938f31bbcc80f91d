"""BEGIN goes to the server in one message with the first statement of its transaction.

psycopg sends it alone and waits for the answer: one round trip more for each transaction. Here
both leave together, in libpq's pipeline mode, and are answered together. Only for what is the same
to the server when it comes that way (see `_is_alike`), and only by cursors that merge parameters
into the text, as Django's do unless `server_side_binding` is set; for all else BEGIN goes alone.

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
    """Whether a statement that psycopg would send BEGIN before takes it along; then it will."""
    conn = cursor._conn
    pgconn = conn.pgconn
    if (
        known.judge.rides
        and isinstance(query, str)
        and _is_idle(pgconn)
        and not cursor._sends_alone
        and (_remembered if len(query) < _LONG else _is_alike)(query)
        and _is_silent(pgconn)  # last: it asks the system
    ):
        # It must not keep the cursor alive: a statement that cannot be made leaves it there.
        cursor._maybe_prepare_gen = partial(_begin_and_execute, ref(cursor), known)
        return True
    return False


def _is_idle(pgconn: Any) -> bool:
    return pgconn.transaction_status == TransactionStatus.IDLE and not pgconn.pipeline_status


def _is_silent(pgconn: Any) -> bool:
    """Whether the server has said nothing on its own. Why it ends the session, libpq would lose."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(pgconn.socket, select.POLLIN)
    return not asked.poll(0)


def _begin_and_execute(
    of: ref[Any], known: changes.Changes, pgq: Any, *, prepare: Any = None, binary: Any = None
) -> Generator[Any, Any, None]:
    """Stands in for `_maybe_prepare_gen`, once."""
    cursor: Any = of()
    del cursor._maybe_prepare_gen
    conn, pgconn = cursor._conn, cursor._pgconn
    if conn._autocommit or not _is_idle(pgconn):  # left by a statement that could not be made
        yield from cursor._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        return
    begin = conn._get_tx_start_command()
    if not (cursor.format if binary is None else binary):  # what is refused there
        pgconn.enter_pipeline_mode()
        try:
            pgconn.send_query_params(begin, None)
            cursor._execute_send(pgq, force_extended=True)
            pgconn.pipeline_sync()
            begun = yield from execute(pgconn)
            results = yield from fetch_many(pgconn)
            try:
                yield from fetch_many(pgconn)  # that all is answered
            except psycopg.OperationalError:
                if results[-1].status != ExecStatus.FATAL_ERROR:  # which says why it has ended
                    raise
        finally:
            with suppress(psycopg.Error):  # of a connection that is lost, or left in the middle
                pgconn.exit_pipeline_mode()
        if begun[-1].status == ExecStatus.COMMAND_OK:
            cursor._check_results(results)
            cursor._set_results(results)
            return
        # Nothing was done. If the next succeeds, what stands in between knows no other way.
        yield from conn._exec_command(begin)
        known.judge.rides = False
    else:
        yield from conn._exec_command(begin)
    yield from cursor._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
