"""Connections before which somebody has put a proxy, as agents that trace do."""

from __future__ import annotations

import gc
import logging
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from django_connpool import ConnectionPool
from tests import inside
from tests.inside import cursors, foreign, fronts
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import pid, until

WORK_MEM = "SELECT current_setting('work_mem')"


class Proxy:
    """As wrapt's: of the class, and with the attributes, of what is behind it."""

    __slots__ = ("__weakref__", "_self_behind")

    def __init__(self, behind: Any) -> None:
        object.__setattr__(self, "_self_behind", behind)

    @property
    def __wrapped__(self) -> Any:
        return self._self_behind

    @property
    def __dict__(self) -> Any:
        return self._self_behind.__dict__

    @property
    def __class__(self) -> Any:
        return self._self_behind.__class__

    @__class__.setter
    def __class__(self, made: Any) -> None:
        self._self_behind.__class__ = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._self_behind, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._self_behind, name, value)

    def __enter__(self) -> Any:
        self._self_behind.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> Any:
        return self._self_behind.__exit__(*exc_info)


class Hiding:
    """With the attributes of what is behind it, and no way to tell what that is."""

    def __init__(self, behind: Any) -> None:
        self.__dict__["_behind"] = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def __exit__(self, *exc_info: Any) -> Any:
        return self._behind.__exit__(*exc_info)


class Proxied:
    @staticmethod
    def connect(*args: Any, **kwargs: Any) -> Any:
        return Proxy(Proxy(psycopg.connect(*args, **kwargs)))


class Hidden:
    @staticmethod
    def connect(*args: Any, **kwargs: Any) -> Any:
        return Hiding(psycopg.connect(*args, **kwargs))


class WithoutStart(psycopg.Connection[Any]):
    """Of a psycopg whose connections begin statements in another way."""

    _start_query = None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start_query = partial(psycopg.Connection._start_query, self)


@pytest.fixture(autouse=True)
def _said(monkeypatch: pytest.MonkeyPatch) -> None:
    inside.say_again(monkeypatch)


def in_autocommit(conn: Any) -> None:
    conn.autocommit = True


def make_dirty(pool: ConnectionPool[Any], cursor_class: type[Any] | None = None) -> int:
    with pool.connection() as conn:
        conn.row_factory = dict_row
        if cursor_class is None:
            conn.execute("SET work_mem = '7MB'")
        else:  # of which the pool knows nothing
            cursor_class(conn).execute("SET work_mem = '7MB'")
        return conn.info.backend_pid  # type: ignore[no-any-return]


def found(pool: ConnectionPool[Any]) -> tuple[str, int]:
    """What the next borrower finds, and in which session."""
    with pool.connection() as conn:
        (value,) = conn.execute(WORK_MEM).fetchone()
        return value, pid(conn)


def test_a_session_behind_proxies_is_cleaned_and_stays(make_pool: MakePool) -> None:
    pool = make_pool(connection_class=Proxied, max_size=1, configure=in_autocommit)
    born = found(pool)
    for cursor_class in (None, psycopg.Cursor, psycopg.ClientCursor):
        assert make_dirty(pool, cursor_class) == born[1]
        assert found(pool) == born
    with pool.connection() as conn:
        assert type(conn) is Proxy


def test_behind_a_proxy_a_cursor_keeps_the_loan(
    make_pool: MakePool, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(connection_class=Proxied, max_size=1, configure=in_autocommit)
    cursor = pool.getconn().cursor()
    gc.collect()
    assert cursor.execute("SELECT 1").fetchone() == (1,)
    pool.putconn(cursor.connection)
    del cursor
    found(pool)
    # Pools of earlier tests may still have something to say.
    assert [line for line in caplog.messages if app in line] == []


def test_a_connection_behind_a_proxy_that_nobody_has_comes_back(make_pool: MakePool) -> None:
    pool = make_pool(connection_class=Proxied, max_size=1, configure=in_autocommit)
    pool.getconn()
    gc.collect()
    until(lambda: pool.snapshot()["in_use"] == 0)
    found(pool)


def test_what_hides_the_connection_is_used_once(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pool = make_pool(connection_class=Hidden, max_size=1, configure=in_autocommit)
    sessions = set()
    for cursor_class in (None, psycopg.Cursor):
        sessions.add(make_dirty(pool, cursor_class))
        value, session = found(pool)
        assert value != "7MB"
        sessions.add(session)
    assert len(sessions) == 4
    assert [line for line in caplog.messages if "hides psycopg's connection" in line] == [
        f"{Hiding} hides psycopg's connection, with no __wrapped__ to find it by: what it is "
        "used for goes unseen, so every connection is closed when it is given back"
    ]


def test_where_statements_may_go_unseen_every_session_is_cleaned(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(connection_class=WithoutStart, max_size=1, configure=in_autocommit)
    born = found(pool)
    for cursor_class in (None, psycopg.Cursor, psycopg.ClientCursor):
        assert make_dirty(pool, cursor_class) == born[1]
        assert found(pool) == born
    said = "statements may go unseen, so every session is cleaned"
    assert len([line for line in caplog.messages if line.endswith(said)]) == 1


def test_what_was_configured_is_there_again_where_every_session_is_cleaned(
    make_pool: MakePool,
) -> None:
    def configure(conn: Any) -> None:
        conn.autocommit = True
        conn.execute("SET work_mem = '5MB'")

    pool = make_pool(connection_class=WithoutStart, max_size=1, configure=configure)
    born = found(pool)
    assert born[0] == "5MB"
    assert make_dirty(pool) == born[1]
    assert found(pool) == born


@pytest.mark.parametrize("owner", ["Cursor", "BaseCursor"])
def test_what_is_put_over_a_method_later_is_called(
    owner: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(max_size=1, configure=in_autocommit)
    found(pool)
    of, name = getattr(fronts, owner), "__init__" if owner == "Cursor" else "_start_query"
    plain, called = getattr(of, name), []

    def traced(cursor: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return plain(cursor, *args, **kwargs)

    monkeypatch.setattr(of, name, traced)
    pool.drain()
    found(pool)
    assert called


def test_a_proxy_of_a_class_stands_for_it() -> None:
    assert foreign.genuine(Proxy(psycopg.Cursor)) is psycopg.Cursor
    assert foreign.genuine(Proxy(len)).__wrapped__ is len
    assert not foreign.is_class(Proxy(psycopg.Cursor))
    factory = Proxy(psycopg.Cursor)
    assert cursors.watched(factory) is factory
