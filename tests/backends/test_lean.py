"""What a pooled request costs more than one over a connection that stays open."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import django
import psycopg
import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base

from django_connpool import scope
from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from django_connpool.backends.postgresql import base as plain
from tests import inside
from tests.databases import Databases, in_hand, in_thread, on_loan, round_trips, value
from tests.pool.real.helpers import until_known

# Python functions called in a request with one query, over those of a persistent connection of
# Django's own. Lower it when you make the borrow leaner; a change that needs more says why.
# Django 4.2 makes fewer itself.
EXTRA_CALLS = {(4, 2): -2, (5, 1): -4, (5, 2): -4, (6, 0): -4, (6, 1): -4}
# How many fewer in a request that soon follows another of its thread: see pool/parking.py.
FEWER_CALLS = 3
# With psycopg 3.2 a cursor makes adapters of its own at once.
EXTRA_CALLS_OF_PSYCOPG_32 = 5


@pytest.fixture
def persistent(databases: Databases) -> Any:
    engine = "django.db.backends.postgresql"
    return databases.add("persistent", engine=engine, CONN_MAX_AGE=None)


@pytest.fixture
def pooled(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2})


def one_query(wrapper: Any) -> None:
    value(wrapper, "SELECT 1")


def no_query(wrapper: Any) -> None:
    """A view that needs no database."""


def one_atomic_query(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        one_query(wrapper)


def two_queries(wrapper: Any) -> None:
    one_query(wrapper)
    one_query(wrapper)


VIEWS = [no_query, one_query, one_atomic_query, two_queries]


def handle(wrapper: Any, view: Callable[[Any], None]) -> None:
    """What Django's signal handlers do to a connection in a request, and the view."""
    wrapper.close_if_unusable_or_obsolete()
    view(wrapper)
    wrapper.close_if_unusable_or_obsolete()


def python_calls(work: Callable[[], None]) -> int:
    calls = 0

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def answers(wrapper: Any, view: Callable[[Any], None]) -> int:
    """How often a request has the server answer."""
    if isinstance(wrapper, PooledDatabaseWrapperMixin):
        until_known(wrapper.pool)
    wrapper.ensure_connection()

    def request() -> None:
        wrapper.close_if_unusable_or_obsolete()
        handle(wrapper, view)

    return round_trips(wrapper, request)


def test_a_request_makes_no_more_python_calls_than_are_pinned_here(
    persistent: Any, pooled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They follow each other soon, however slow the machine.
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    until_known(pooled.pool)
    calls = []
    with inside.maintenance_asleep():
        for wrapper in (persistent, pooled):
            for _ in range(3):  # what is done once only
                handle(wrapper, one_query)
            calls.append(python_calls(lambda wrapper=wrapper: handle(wrapper, one_query)))

    most = EXTRA_CALLS[django.VERSION[:2]]
    if psycopg.__version__.startswith("3.2."):
        most += EXTRA_CALLS_OF_PSYCOPG_32
    assert calls[1] - calls[0] <= most


def test_a_request_that_follows_at_once_makes_fewer(pooled: Any, monkeypatch: Any) -> None:
    until_known(pooled.pool)
    calls = []
    for soon in (0.0, inside.NEVER):
        inside.tune(monkeypatch, park_soon=soon, park_for=3600.0)
        for _ in range(3):
            handle(pooled, one_query)
        calls.append(python_calls(lambda: handle(pooled, one_query)))
    assert calls[0] - calls[1] >= FEWER_CALLS


@pytest.mark.parametrize("release", ["auto", "transaction"])
@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("below", "_cursor"),
        ("below", "ensure_connection"),
        ("above", "_cursor"),
        ("above", "ensure_connection"),
        ("above", "close_if_health_check_failed"),
    ],
)
def test_what_another_package_does_to_connect_is_not_passed_by(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, where: str, name: str, release: str
) -> None:
    seen = []

    def override(self: Any, *args: Any) -> Any:
        seen.append(name)
        return getattr(super(theirs, self), name)(*args)

    lower = plain.DatabaseWrapper if where == "above" else base.DatabaseWrapper
    theirs = type("DatabaseWrapper", (lower,), {name: override})
    pooled = (PooledDatabaseWrapperMixin,) if where == "below" else ()
    monkeypatch.setattr(plain, "DatabaseWrapper", type("DatabaseWrapper", (*pooled, theirs), {}))
    wrapper = databases.add(pool={"max_size": 1, "release": release})

    one_query(wrapper)
    assert on_loan(wrapper) == (release != "transaction")
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)

    assert seen


@pytest.mark.parametrize("release", ["auto", "transaction"])
def test_what_is_put_in_the_place_of_djangos_ensure_connection_is_called(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": release})
    djangos = BaseDatabaseWrapper.ensure_connection
    found = []

    def ensure_connection(self: Any) -> None:
        found.append(in_hand(self) is not None)
        djangos(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)
    one_query(wrapper)
    with transaction.atomic(using=wrapper.alias):
        one_query(wrapper)

    assert found[0] is False
    assert True in found


def test_a_request_asks_an_alias_that_holds_nothing_in_one_look(pooled: Any) -> None:
    """Django asks all of them, twice: of a hundred aliases, what is done here is done 200 times."""
    one_query(pooled)
    pooled.close_if_unusable_or_obsolete()
    lines = 0

    def count(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        pooled.close_if_unusable_or_obsolete()
    finally:
        sys.settrace(before)

    assert lines == 2  # the look, and the return


def test_python_finds_what_a_wrapper_and_its_cursors_keep_at_once(pooled: Any) -> None:
    """It looks up anew each time what both an object and its class have, or a new dictionary."""
    handle(pooled, one_atomic_query)
    handle(pooled, one_query)
    with pooled.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert inside.goes_by_the_hand(cursor.cursor)
        assert vars(cursor.cursor) == {}
    ours = [base for base in type(pooled).__mro__ if base.__module__.startswith("django_connpool")]
    classes = [vars(base) for base in ours]
    both = [(name, of[name]) for name in vars(pooled) for of in classes if name in of]
    assert [name for name, found in both if not hasattr(found, "__get__")] == []


def test_an_override_of_the_inner_close_is_not_passed_by(pooled: Any, monkeypatch: Any) -> None:
    seen = []

    def _close(self: Any) -> None:
        seen.append(self)
        PooledDatabaseWrapperMixin._close(self)

    one_query(pooled)
    with monkeypatch.context() as patch:
        patch.setattr(type(pooled), "_close", _close)
        pooled.close_if_unusable_or_obsolete()

    assert seen == [pooled]
    assert in_hand(pooled) is None


def test_an_override_of_close_is_not_passed_by(pooled: Any, monkeypatch: Any) -> None:
    seen = []

    def close(self: Any) -> None:
        seen.append(self)
        BaseDatabaseWrapper.close(self)

    one_query(pooled)
    with monkeypatch.context() as patch:
        patch.setattr(type(pooled), "close", close)
        pooled.close_if_unusable_or_obsolete()
    one_query(pooled)
    with monkeypatch.context() as patch:
        patch.setattr(pooled, "close", lambda: close(pooled))
        pooled.close_if_unusable_or_obsolete()

    assert seen == [pooled, pooled]
    assert in_hand(pooled) is None


def test_the_end_of_a_request_in_another_thread_is_refused_as_ever(pooled: Any) -> None:
    one_query(pooled)
    with pytest.raises(DatabaseError, match="can only be used in that same thread"):
        in_thread(pooled.close_if_unusable_or_obsolete)

    assert in_hand(pooled) is not None


def test_the_end_of_a_request_in_an_event_loop_is_refused_as_ever(pooled: Any) -> None:
    one_query(pooled)

    async def end() -> None:
        pooled.close_if_unusable_or_obsolete()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(end())
    assert in_hand(pooled) is not None


def test_a_request_without_a_query_borrows_nothing(pooled: Any) -> None:
    handle(pooled, one_query)
    before = pooled.pool.get_stats()["requests_num"]
    handle(pooled, no_query)

    assert pooled.pool.get_stats()["requests_num"] == before


@pytest.mark.parametrize("view", VIEWS)
def test_a_request_makes_no_more_round_trips_than_over_a_connection_that_stays_open(
    persistent: Any, pooled: Any, view: Callable[[Any], None]
) -> None:
    expected = {no_query: 0, one_query: 1, one_atomic_query: 3, two_queries: 2}[view]

    assert answers(persistent, view) == expected
    # BEGIN goes with the first statement: see test_riding.py.
    assert answers(pooled, view) == expected - (view is one_atomic_query)


def test_what_was_done_to_the_session_is_put_in_words_once(pooled: Any) -> None:
    """Else each statement of a request that begins with SET would cost twice as much."""
    until_known(pooled.pool)
    with scope("plain"):
        two_queries(pooled)
        plain = python_calls(lambda: one_query(pooled))
    with scope("with state"):
        with pooled.cursor() as cursor:
            cursor.execute("SET work_mem = '7MB'")
        one_query(pooled)
        assert "settings" in pooled.pool.snapshot()["loans"][0]["pinned"]
        assert python_calls(lambda: one_query(pooled)) <= plain + 10
        with pooled.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE more ()")
        assert "temporary" in pooled.pool.snapshot()["loans"][0]["pinned"]


def test_a_round_trip_is_counted_when_there_is_one(databases: Databases) -> None:
    wrapper = databases.add("asking", pool={"max_size": 1, "check": "always"})

    assert answers(wrapper, one_query) > 1


def test_a_connection_is_made_of_the_class_that_it_has_later(
    pooled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that changes its class is slower, from Python 3.13 on."""
    classes = []
    init = psycopg.Connection.__init__

    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        classes.append(type(self))
        init(self, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "__init__", noting)
    pooled.ensure_connection()
    assert type(pooled.connection) is classes[-1]
    assert type(pooled.connection) is not psycopg.Connection


def test_a_tool_that_replaced_connect_is_asked(
    pooled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, asked = psycopg.connect, []

    def traced(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["dbname"])
        return connect(*args, **kwargs)

    monkeypatch.setattr(psycopg, "connect", traced)
    one_query(pooled)
    assert set(asked) == {pooled.settings_dict["NAME"]}
