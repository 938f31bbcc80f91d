"""Limits of time that are given to the server when a connection is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connections, transaction

from tests.cluster import Cluster, Server
from tests.databases import Databases, in_thread, pid, value
from tests.testproject.processes import wait_until

LIMITS = {
    "command_timeout": "statement_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
    "lock_timeout": "lock_timeout",
}

TIMEOUT = r"due to (idle-in-)?transaction timeout"


@pytest.fixture
def modern(cluster: Server) -> Server:
    """A server that knows transaction_timeout."""
    if int(cluster.execute("SHOW server_version_num")[0][0]) < 170000:
        pytest.skip("needs PostgreSQL 17")
    return cluster


@pytest.mark.parametrize("option", LIMITS)
def test_the_server_is_given_the_limit_and_cleaning_returns_to_it(
    databases: Databases, option: str
) -> None:
    wrapper = databases.add(pool={option: 12.5, "max_size": 1})
    assert value(wrapper, f"SHOW {LIMITS[option]}") == "12500ms"
    value(wrapper, f"SELECT set_config('{LIMITS[option]}', '1min', false)")
    wrapper.close()

    assert value(wrapper, f"SHOW {LIMITS[option]}") == "12500ms"


def test_limits_stand_beside_options_of_the_users_own(databases: Databases) -> None:
    wrapper = databases.add(
        pool={"lock_timeout": 5, "command_timeout": 30},
        options={"options": "-c work_mem=7MB -c lock_timeout=1min"},
    )
    assert value(wrapper, "SHOW work_mem") == "7MB"
    assert value(wrapper, "SHOW lock_timeout") == "5s"
    assert value(wrapper, "SHOW statement_timeout") == "30s"


def test_without_limits_nothing_is_given(databases: Databases) -> None:
    wrapper = databases.add(pool={})
    assert value(wrapper, "SHOW lock_timeout") == "0"
    assert not wrapper.pool.snapshot()["last_error"]
    assert value(wrapper, "SHOW idle_in_transaction_session_timeout") == "0"


def test_who_waits_too_long_for_a_lock_is_told_and_keeps_the_session(databases: Databases) -> None:
    wrapper = databases.add(pool={"lock_timeout": 0.05})
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        mine = connections[wrapper.alias]
        with transaction.atomic(wrapper.alias):
            value(mine, "SELECT pg_advisory_xact_lock(4711)")
            held.set()
            go_on.wait(30)
        mine.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    before = pid(wrapper)
    with pytest.raises(OperationalError) as caught, transaction.atomic(wrapper.alias):
        value(wrapper, "SELECT pg_advisory_xact_lock(4711)")
    go_on.set()
    thread.join()

    assert isinstance(caught.value.__cause__, psycopg.errors.LockNotAvailable)
    assert pid(wrapper) == before


@pytest.mark.parametrize("option", ["idle_in_transaction_timeout", "transaction_timeout"])
def test_a_session_that_the_server_has_ended_is_replaced(
    databases: Databases, modern: Server, option: str
) -> None:
    wrapper = databases.add(pool={option: 0.1, "max_size": 1})

    def linger() -> int:
        mine = connections[wrapper.alias]
        with pytest.raises(DatabaseError, match=TIMEOUT), transaction.atomic(wrapper.alias):
            first = pid(mine)
            wait_until(lambda: not is_there(modern, first), "the server ends it")
            value(mine, "SELECT 1")
        mine.close()
        return first

    ended = in_thread(linger)

    assert pid(wrapper) != ended


def is_there(server: Server, pid: int) -> bool:
    return bool(server.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]))


@pytest.mark.e2e
def test_a_server_too_old_for_transaction_timeout_is_named_at_once(
    databases: Databases, make_cluster: Callable[..., Cluster]
) -> None:
    old = make_cluster(version=16)
    wrapper = databases.add(server=old, pool={"transaction_timeout": 5, "outage_patience": 30})
    with pytest.raises(OperationalError, match="before PostgreSQL 17 know no transaction_timeout"):
        pid(wrapper)
