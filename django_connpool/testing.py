"""For the tests of a project: does a piece of code leave its database session clean?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.transaction import TransactionManagementError
from psycopg.rows import tuple_row

from .registry import is_pooled
from .session import changes, cleaning
from .session.statements import ANYTHING

_QUERIES = {
    "settings": "SELECT name, setting FROM pg_catalog.pg_settings",
    "user": "SELECT 'current', current_user UNION ALL SELECT 'session', session_user",
    "advisory locks": (
        "SELECT concat_ws(' ', classid, objid, objsubid), mode FROM pg_catalog.pg_locks "
        "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    ),
    "cursors": "SELECT name, statement FROM pg_catalog.pg_cursors WHERE name <> ''",
    "prepared statements": "SELECT name, statement FROM pg_catalog.pg_prepared_statements",
    "channels": "SELECT channel, '' FROM pg_catalog.pg_listening_channels() AS channel",
    "temporary objects": (
        "SELECT oid::regclass::text, '' FROM pg_catalog.pg_class "
        "WHERE relnamespace = pg_my_temp_schema() "
        "UNION ALL SELECT oid::regprocedure::text, '' FROM pg_catalog.pg_proc "
        "WHERE pronamespace = pg_my_temp_schema() "
        "UNION ALL SELECT oid::regtype::text, '' FROM pg_catalog.pg_type "
        "WHERE typnamespace = pg_my_temp_schema()"
    ),
    "replication slots": (
        "SELECT slot_name, '' FROM pg_catalog.pg_replication_slots "
        "WHERE temporary AND active_pid = pg_backend_pid()"
    ),
}

State = dict[str, dict[str, Any]]


def session_state(conn: Any, settings: Iterable[str] = ()) -> State:
    """Return what a borrower of this psycopg connection would find in its session.

    PostgreSQL does not list settings that nobody has declared, such as `app.tenant`: those to
    be looked at as well are named in `settings`. One that was set and cleaned reads as an
    empty text instead of NULL for the rest of the session, which PostgreSQL has no way to
    undo, so both count as the same.
    """
    state: State = {}
    with conn.cursor(row_factory=tuple_row) as cursor:
        for kind, query in _QUERIES.items():
            state[kind] = dict(cursor.execute(query).fetchall())
        for name in settings:
            row = cursor.execute("SELECT current_setting(%s, true)", [name]).fetchone()
            state["settings"][name] = row[0] or None
    return state


def differences(found: State, expected: State) -> list[str]:
    """Say in what two sessions differ, one line for each thing."""
    lines = []
    for kind in found:
        for name in sorted(found[kind].keys() | expected[kind].keys(), key=str):
            was, now = expected[kind].get(name), found[kind].get(name)
            if was != now:
                lines.append(f"{kind}: {name} is {now!r} instead of {was!r}")
    return lines


@contextmanager
def assert_session_stays_clean(
    using: str = "default", settings: Iterable[str] = ()
) -> Iterator[None]:
    """Assert that the next borrower finds nothing of what the block did to its session.

    Gives the connection back when the block ends, and compares every idle session of the pool
    with a new one. `settings` as for `session_state`. Use it where no other thread borrows,
    and outside `TestCase`, whose transaction keeps the connection: in `TransactionTestCase`, or
    with `@pytest.mark.django_db(transaction=True)`.

    Raises AssertionError that lists what is left; TransactionManagementError inside an atomic
    block; ImproperlyConfigured for a database that is not pooled.
    """
    wrapper: Any = connections[using]
    if not is_pooled(wrapper):
        raise ImproperlyConfigured(f"the database {using!r} has no pool: nothing is given back.")
    _refuse_atomic(wrapper)
    names = tuple(settings)
    yield
    _refuse_atomic(wrapper)
    wrapper.close()
    left = _left_behind(wrapper.pool, names)
    if left:
        raise AssertionError(
            f"the next borrower of {using!r} finds: {'; '.join(left)}. If a function on the server "
            "does this, name it in the pool option reset_functions, or set reset to 'always'."
        )


def _refuse_atomic(wrapper: Any) -> None:
    if wrapper.in_atomic_block:
        raise TransactionManagementError(
            f"inside an atomic block the connection of {wrapper.alias!r} is not given back: use "
            "TransactionTestCase, or pytest.mark.django_db(transaction=True)."
        )


def _left_behind(pool: Any, names: tuple[str, ...]) -> list[str]:
    idle = [pool.getconn() for _ in range(pool.snapshot()["idle"])]
    try:
        # What a receiver of connection_created set up is no leftover.
        setups = [getattr(changes.of(conn), "setup", None) or [] for conn in idle]
        left: list[str] = []
        for conn, statements in zip(idle, setups, strict=True):
            expected = _new_session(pool, statements, names)
            found = session_state(conn, names)
            for name in found["settings"].keys() - expected["settings"].keys() - set(names):
                if "." in name:  # it came with a library, PL/pgSQL's for instance
                    del found["settings"][name]
            left += differences(found, expected)
        return left
    finally:
        for conn in idle:
            pool.putconn(conn)


def _new_session(pool: Any, setup: list[tuple[int, bytes]], names: tuple[str, ...]) -> State:
    conn = pool.connection_class.connect()
    try:
        if setup:
            text, _ = cleaning.statements(ANYTHING, setup)
            conn.pgconn.exec_(text)
        return session_state(conn, names)
    finally:
        conn.close()
