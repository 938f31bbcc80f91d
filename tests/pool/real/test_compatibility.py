"""The same code on psycopg_pool and on ours: what it relies on there, it finds here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import django_connpool as ours
from tests.cluster import Server
from tests.pool.real.helpers import pid, until

psycopg_pool = pytest.importorskip("psycopg_pool")

# Not documented: how its workers work.
INTERNAL = {"reconnect_failed", "run_task", "schedule_task", "worker"}
PUBLIC = [name for name in dir(psycopg_pool.ConnectionPool) if name[0] != "_"]
METHODS = [
    name
    for name in PUBLIC
    if callable(getattr(psycopg_pool.ConnectionPool, name)) and name not in INTERNAL
]
# Where ours promises more than doing nothing.
BETTER = {"check", "reset"}


@pytest.fixture(params=[psycopg_pool, ours], ids=["psycopg_pool", "ours"])
def package(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make(package: Any, dsn: str) -> Iterator[Callable[..., Any]]:
    pools = []

    def make(**options: Any) -> Any:
        options = {"min_size": 1, "max_size": 2, "timeout": 10.0, "open": True, **options}
        pools.append(package.ConnectionPool(dsn, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_every_argument_of_the_other_pool_is_accepted_in_the_same_place() -> None:
    theirs = inspect.signature(psycopg_pool.ConnectionPool.__init__).parameters
    mine = inspect.signature(ours.ConnectionPool.__init__).parameters
    assert [name for name in theirs if name not in mine] == []
    assert list(mine)[:2] == list(theirs)[:2]
    assert all(mine[name].kind == theirs[name].kind for name in theirs)
    assert {name for name in theirs if mine[name].default != theirs[name].default} == BETTER


def test_every_public_name_of_the_other_pool_is_there() -> None:
    options: Any = {"min_size": 0, "max_size": 1, "open": False}
    attributes = [name for name in vars(psycopg_pool.ConnectionPool(**options)) if name[0] != "_"]
    with ours.ConnectionPool(**options) as pool:
        found = set(dir(pool))
    assert {*PUBLIC, *attributes} - found <= INTERNAL


def test_every_number_of_the_other_pool_has_its_name() -> None:
    base = psycopg_pool.base.BasePool
    theirs = {getattr(base, name) for name in dir(base) if name.strip("_").isupper()}
    assert len(theirs) > 12
    with ours.ConnectionPool(min_size=0, max_size=1) as pool:
        assert theirs - set(pool.get_stats()) == set()
        assert theirs - set(pool.pop_stats()) == set()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_other_pool_takes_the_same_arguments(name: str) -> None:
    theirs = inspect.signature(getattr(psycopg_pool.ConnectionPool, name)).parameters
    mine = inspect.signature(getattr(ours.ConnectionPool, name)).parameters
    assert list(theirs) == list(mine)
    assert [theirs[key].default for key in theirs] == [mine[key].default for key in mine]


def test_the_errors_have_the_same_names_and_base(package: Any) -> None:
    for name in ("PoolClosed", "PoolTimeout", "TooManyRequests"):
        assert issubclass(getattr(package, name), psycopg.OperationalError)


def test_borrowing_in_all_ways(make: Callable[..., Any]) -> None:
    pool = make(kwargs={"autocommit": True})
    pool.wait()
    with pool.connection() as conn:
        assert conn.autocommit
        first = pid(conn)
    conn = pool.getconn(timeout=5)
    assert pid(conn) == first
    pool.putconn(conn)
    with pool.connection(timeout=5) as one, pool.connection() as two:
        assert pid(one) != pid(two)


def test_sizes_name_and_state(make: Callable[..., Any]) -> None:
    pool = make(name="mine", max_size=None)
    assert (pool.name, pool.min_size, pool.max_size, pool.closed) == ("mine", 1, 1, False)
    pool.resize(2, 3)
    assert (pool.min_size, pool.max_size) == (2, 3)
    pool.close()
    assert pool.closed


def test_the_numbers(make: Callable[..., Any]) -> None:
    pool = make(max_size=1)
    pool.wait()
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            pool.getconn(timeout=0.01)
    until(lambda: pool.get_stats()["pool_available"] == 1)
    stats = pool.pop_stats()
    for key, value in {
        "pool_min": 1,
        "pool_max": 1,
        "pool_size": 1,
        "pool_available": 1,
        "requests_waiting": 0,
        "requests_num": 2,
        "requests_queued": 1,
        "requests_errors": 1,
        "connections_num": 1,
    }.items():
        assert stats[key] == value, key
    assert stats["requests_wait_ms"] >= 5
    assert pool.get_stats().get("requests_num", 0) == 0


def test_the_errors(package: Any, make: Callable[..., Any]) -> None:
    pool = make(max_size=1, max_waiting=1)
    conn = pool.getconn()
    with pytest.raises(package.PoolTimeout):
        pool.getconn(timeout=0.01)
    with pytest.raises(ValueError):
        make().putconn(conn)
    pool.putconn(conn)
    with pytest.raises(ValueError):
        pool.putconn(conn)
    pool.close()
    with pytest.raises(package.PoolClosed):
        pool.getconn()
    with pytest.raises(psycopg.OperationalError):
        pool.open()


def test_the_callbacks(make: Callable[..., Any]) -> None:
    calls: list[str] = []
    pool = make(
        max_size=1,
        configure=lambda conn: calls.append("configure"),
        check=lambda conn: calls.append("check"),
        reset=lambda conn: calls.append("reset"),
    )
    pool.wait()
    for _ in range(2):
        with pool.connection():
            calls.append("use")
        until(lambda: pool.get_stats()["pool_available"] == 1)
    calls = [call for call in calls if call != "check"]
    assert calls == ["configure", "use", "reset", "use", "reset"]


def test_draining_and_checking(make: Callable[..., Any], cluster: Server) -> None:
    pool = make(max_size=1, check=None)
    with pool.connection() as conn:
        first = pid(conn)
    pool.drain()
    with pool.connection() as conn:
        second = pid(conn)
    assert first != second
    until(lambda: pool.get_stats()["pool_available"] == 1)
    cluster.terminate(second)
    pool.check()
    with pool.connection() as conn:
        assert pid(conn) != second


def test_as_a_context_manager(package: Any, dsn: str) -> None:
    with package.ConnectionPool(dsn, min_size=1, open=False) as pool:
        pool.wait()
        assert not pool.closed
    assert pool.closed
