"""Bounds that pools share, as settings ask for them and as the server sees them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from psycopg import connect

import django_connpool
from django_connpool import PoolTimeout, checks, pools
from tests.cluster import Server
from tests.databases import Databases, connected, in_thread, on_loan, value
from tests.inside import sharing_of
from tests.testproject.processes import wait_until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, settings: Any) -> Path:
    tmp_path.chmod(0o700)
    settings.CONNPOOL_HOST_DIR = str(tmp_path)
    return tmp_path


@contextmanager
def holding(wrapper: Any, number: int) -> Iterator[None]:
    """So many connections are on loan, each in a thread of its own, until the block ends."""
    go_on = threading.Event()
    taken = threading.Semaphore(0)

    def hold() -> None:
        with wrapper.pool.connection(30):
            taken.release()
            go_on.wait(60)

    threads = [threading.Thread(target=hold) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert taken.acquire(timeout=30)
        yield
    finally:
        go_on.set()
        for thread in threads:
            thread.join()


def test_a_pool_that_shares_nothing_asks_nobody(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 2})
    value(wrapper, "SELECT 1")
    assert sharing_of(wrapper.pool) is None
    assert wrapper.pool.snapshot()["bounds"] == []


def test_pools_of_one_database_share_its_bound_for_the_host(
    databases: Databases, cluster: Server
) -> None:
    one = databases.add("one", pool={"host_max_size": 2})
    two = databases.add("two", pool={"host_max_size": 2, "timeout": 30})
    with holding(one, 2):
        with pytest.raises(OperationalError, match="of 2 it has 0, 2 are with other pools"):
            in_thread(lambda: _borrow(two, 0.3))
        assert connected(cluster, two) == 0
    # What is idle there is closed for who waits here.
    assert value(two, "SELECT 1") == 1
    assert one.pool.snapshot()["closed_for"] == {"given up": 1}
    assert one.pool.snapshot()["size"] == two.pool.snapshot()["size"] == 1


def _borrow(wrapper: Any, timeout: float) -> None:
    try:
        with wrapper.pool.connection(timeout):
            pass
    except Exception as error:
        raise OperationalError(str(error)) from error


def test_what_a_borrower_does_not_use_is_had_by_another_pool(databases: Databases) -> None:
    """With `release` "auto" a request keeps its connection, but not from who waits."""
    one = databases.add("one", pool={"host_max_size": 1})
    databases.add("two", pool={"host_max_size": 1, "timeout": 30})
    assert value(one, "SELECT 1") == 1
    assert on_loan(one) == 1
    assert in_thread(lambda: value(connections["two"], "SELECT 2")) == 2
    assert value(one, "SELECT 3") == 3


def test_a_transaction_keeps_its_connection_whoever_waits(databases: Databases) -> None:
    one = databases.add("one", pool={"host_max_size": 1})
    two = databases.add("two", pool={"host_max_size": 1})
    with transaction.atomic("one"):
        before = value(one, "SELECT pg_backend_pid()")
        with pytest.raises(OperationalError, match="waits for a place of host_max_size"):
            in_thread(lambda: _borrow(two, 0.3))
        assert value(one, "SELECT pg_backend_pid()") == before


def test_another_database_has_a_bound_of_its_own(databases: Databases, cluster: Server) -> None:
    with connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS test_bounds_other")
        connection.execute("CREATE DATABASE test_bounds_other")
    one = databases.add("one", pool={"host_max_size": 1})
    two = databases.add("two", pool={"host_max_size": 1}, NAME="test_bounds_other")
    try:
        with holding(one, 1), holding(two, 1):
            pass
    finally:
        two.close()
        pools["two"].close()
        with connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("DROP DATABASE test_bounds_other")


def test_aliases_share_a_budget_of_the_process(databases: Databases, settings: Any) -> None:
    settings.CONNPOOL_BUDGETS = {"main": 2}
    one = databases.add("one", pool={"budget": "main"})
    two = databases.add("two", pool={"budget": "main", "timeout": 30})
    told = "waits for a place of budget 'main'"
    with holding(one, 1), holding(two, 1), pytest.raises(OperationalError, match=told):
        _borrow(one, 0.3)
    with holding(one, 2):
        pass
    assert value(two, "SELECT 1") == 1


def test_a_budget_of_the_host_bounds_all_of_its_aliases(
    databases: Databases, settings: Any
) -> None:
    settings.CONNPOOL_BUDGETS = {"main": {"max_size": 5, "host_max_size": 2}}
    one, two = (databases.add(alias, pool={"budget": "main"}) for alias in ("one", "two"))
    told = "a place of budget 'main' of the host"
    with holding(one, 1), holding(two, 1), pytest.raises(OperationalError, match=told):
        _borrow(one, 0.3)


def test_what_is_reserved_is_for_admin_work(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 3, "reserve": 1})
    with holding(wrapper, 2):
        with pytest.raises(OperationalError, match="1 are reserved for priority work"):
            in_thread(lambda: _borrow(wrapper, 0.3))
        with django_connpool.priority("admin"):
            assert value(wrapper, "SELECT 1") == 1
            assert wrapper.pool.name == "spare (priority)"
        assert wrapper.pool.name == "spare"
        assert on_loan(wrapper) == 2


def test_background_work_has_at_most_its_share(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 4, "background_max": "50%"})
    with django_connpool.priority("background"):
        background = wrapper.pool
        with background.connection(), background.connection(), pytest.raises(PoolTimeout):
            background.getconn(0.2)
    with holding(wrapper, 4):
        pass


def test_a_block_of_another_priority_leaves_a_transaction_alone(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 3, "reserve": 1})
    with transaction.atomic("spare"):
        before = value(wrapper, "SELECT pg_backend_pid()")
        with django_connpool.priority("admin"):
            assert value(wrapper, "SELECT pg_backend_pid()") == before
    assert value(wrapper, "SELECT 1") == 1
    assert wrapper.pool.name == "spare"


def test_priority_means_nothing_where_nothing_is_reserved(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 3})
    pool = wrapper.pool
    with django_connpool.priority("admin"):
        assert wrapper.pool is pool
    with pytest.raises(ValueError, match="not 'health'"), django_connpool.priority("health"):
        pass


def test_a_budget_that_is_not_there_is_told(databases: Databases, settings: Any) -> None:
    settings.CONNPOOL_BUDGETS = {"main": 2}
    wrapper = databases.add(pool={"budget": "mian"})
    with pytest.raises(ImproperlyConfigured, match="has no budget 'mian'; there are: main"):
        value(wrapper, "SELECT 1")
    assert _found("E006") == [
        "CONNPOOL_BUDGETS has no budget 'mian'; there are: main.",
    ]


@pytest.mark.parametrize(
    ("budgets", "told"),
    [
        ({"main": 0}, "0 is no number of connections"),
        ({"main": {"max_size": "5"}}, "'5' is no number of connections"),
        ({"main": {}}, "needs a max_size, a host_max_size, or both"),
        ({"main": {"max_size": 5, "reserve": 5}}, "reserve has to be from 0 to 4"),
        ({"main": {"max_size": 5, "background_max": "x"}}, "background_max: It must be"),
        ({"main": {"size": 5}}, "cannot have size: it has max_size, host_max_size"),
        ([5], "has to be a dictionary"),
    ],
    ids=str,
)
def test_an_impossible_budget_is_told(
    databases: Databases, settings: Any, budgets: Any, told: str
) -> None:
    settings.CONNPOOL_BUDGETS = budgets
    databases.add(pool={"budget": "main"})
    (message,) = _found("E006")
    assert told in message


def test_a_budget_of_one_leaves_nothing_to_borrow_beside_who_listens(
    databases: Databases, settings: Any
) -> None:
    settings.CONNPOOL_BUDGETS = {"main": {"max_size": 5, "reserve": 4}}
    databases.add(pool={"budget": "main"})
    assert _found("E006") == []
    databases.add(pool={"budget": "main", "listen_counts": True})
    (message,) = _found("E006")
    assert "only one connection for usual work" in message


def _found(number: str) -> list[str]:
    return [one.msg for one in checks.check_pools() if one.id == f"django_connpool.{number}"]


def test_a_folder_that_cannot_be_used_is_told_by_a_check(
    databases: Databases, folder: Path
) -> None:
    databases.add(pool={"host_max_size": 2})
    assert _found("W016") == []
    folder.chmod(0o755)
    (message,) = _found("W016")
    assert f"{folder} is open to other users (mode 0755): chmod 700 {folder}" in message


def test_without_its_folder_max_size_is_the_bound_and_that_is_said_once(
    databases: Databases, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(0o755)
    wrapper = databases.add(pool={"host_max_size": 1, "max_size": 2})
    with caplog.at_level(logging.WARNING), holding(wrapper, 2):
        wait_until(lambda: "is not kept" in caplog.text, "it is said")
    assert caplog.text.count("spare: host_max_size is not kept, only max_size is") == 1


def test_where_the_bound_is_required_nothing_is_opened_without_its_folder(
    databases: Databases, folder: Path
) -> None:
    folder.chmod(0o755)
    wrapper = databases.add(pool={"host_max_size": 1, "host_required": True})
    with pytest.raises(ImproperlyConfigured, match=r"host_max_size cannot be kept: .*chmod 700"):
        value(wrapper, "SELECT 1")
    assert _found("E007") != []


def test_sessions_tell_whose_they_are(databases: Databases) -> None:
    wrapper = databases.add(pool={"label_sessions": True}, options={"application_name": ""})
    told = value(
        wrapper, "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    )
    host, pid, alias = told.split("/")
    assert os.uname().nodename.startswith(host)
    assert (pid, alias) == (str(os.getpid()), "spare")
    assert len(told.encode()) <= 63


def test_a_name_that_the_user_chose_stays(databases: Databases) -> None:
    wrapper = databases.add(pool={"label_sessions": True}, options={"application_name": "mine"})
    assert value(wrapper, "SHOW application_name") == "mine"


def test_a_pool_that_is_closed_leaves_its_places(databases: Databases) -> None:
    one = databases.add("one", pool={"host_max_size": 1})
    two = databases.add("two", pool={"host_max_size": 1, "timeout": 20})
    value(one, "SELECT 1")
    one.close()
    pools["one"].close()
    assert value(two, "SELECT 1") == 1
