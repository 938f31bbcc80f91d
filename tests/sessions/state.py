"""What the next request finds: on the server, and on the connection object."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import Format

from django_connpool.testing import differences, session_state
from tests.sessions.corpus import CUSTOM, Ham

_ATTRIBUTES = (
    "autocommit",
    "isolation_level",
    "read_only",
    "deferrable",
    "row_factory",
    "prepare_threshold",
    "prepared_max",
    "_notice_handlers",
    "_notify_handlers",
)


def full_state(wrapper: Any) -> dict[str, dict[str, Any]]:
    """Everything that the corpus can change."""
    wrapper.ensure_connection()
    conn = wrapper.connection
    state = session_state(conn, CUSTOM)
    # These come and go with the libraries that a session happens to have loaded.
    asserts = state["settings"]["plpgsql.check_asserts"] or "on"
    state["settings"] = {
        name: value
        for name, value in state["settings"].items()
        if not str(name).startswith("plpgsql.")
    }
    state["settings"]["plpgsql.check_asserts"] = asserts
    state["connection"] = {name: getattr(conn, name) for name in _ATTRIBUTES}
    state["connection"]["cursor_factory"] = conn.cursor_factory.__name__
    state["connection"]["spam"] = getattr(conn, "spam", None)
    state["adapters"] = {
        "dumper": _dumper(conn),
        "loader": conn.adapters.get_loader(23, Format.TEXT),
        "type": conn.adapters.types.get("spam"),
    }
    state["sequences"] = {"lastval": _lastval(wrapper), "currval": _currval(wrapper)}
    state["transaction"] = {
        name: conn.execute(f"SHOW {name}").fetchone()[0]
        for name in ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
    }
    return state


def leaks(wrapper: Any, fresh: dict[str, dict[str, Any]]) -> list[str]:
    """What differs from a session that nobody has used."""
    try:
        return differences(full_state(wrapper), fresh)
    except Exception as error:  # the next borrower's own statements fail
        return [f"asking fails: {error!r}"]


def _dumper(conn: Any) -> Any:
    try:
        return conn.adapters.get_dumper(Ham, "s")
    except psycopg.ProgrammingError:
        return None


def _lastval(wrapper: Any) -> Any:
    return _asked(wrapper, "SELECT lastval()")


def _currval(wrapper: Any) -> Any:
    return _asked(wrapper, "SELECT currval('corpus.counter')")


def _asked(wrapper: Any, query: str) -> Any:
    from django.db import DatabaseError

    try:
        with wrapper.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()
    except DatabaseError:
        return "not known"
