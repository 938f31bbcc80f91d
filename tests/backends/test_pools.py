from __future__ import annotations

import gc
import threading
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, close_old_connections, connections, transaction
from psycopg import ClientCursor, IsolationLevel

import django_connpool
from django_connpool import ConnectionPool, registry
from tests.cluster import Cluster, Server
from tests.databases import (
    Databases,
    connected,
    in_thread,
    in_threads,
    on_loan,
    pid,
    value,
)
from tests.testproject.processes import wait_until

CURRENT = "SELECT current_database()"


@pytest.fixture
def second(cluster: Server) -> Any:
    """The name of one more database on the server."""
    name = "connpool_second"
    cluster.execute(f"DROP DATABASE IF EXISTS {name}")
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield name
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def twin(databases: Databases, wrapper: Any, **changes: Any) -> Any:
    """One more alias with the settings of a wrapper, but for the changes."""
    same = {"NAME": wrapper.settings_dict["NAME"], "options": wrapper.settings_dict["OPTIONS"]}
    return databases.add("twin", **same, **changes)


def test_a_closed_wrapper_borrows_the_same_connection_again(databases: Databases) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    wrapper.close()

    assert pid(wrapper) == first
    assert wrapper.pool.get_stats()["connections_num"] == 1


def test_closing_twice_gives_back_once(databases: Databases) -> None:
    wrapper = databases.add()
    pid(wrapper)
    wrapper.close()
    wrapper.close()

    assert wrapper.pool.snapshot()["idle"] == 1


def test_close_old_connections_gives_back(databases: Databases) -> None:
    wrapper = databases.add()
    pid(wrapper)
    close_old_connections()

    assert wrapper.connection is None
    assert on_loan(wrapper) == 0


def test_close_old_connections_gives_back_also_after_an_error(databases: Databases) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    with pytest.raises(psycopg.errors.DivisionByZero), wrapper.connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")
    wrapper.errors_occurred = True
    close_old_connections()

    assert pid(wrapper) == first


def test_a_connection_that_died_on_loan_is_replaced_after_the_request(
    databases: Databases,
) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    with pytest.raises(OperationalError):
        value(wrapper, "SELECT pg_terminate_backend(pg_backend_pid())")
    close_old_connections()

    assert pid(wrapper) != first
    assert wrapper.pool.snapshot()["size"] == 1


def test_a_connection_that_died_while_idle_costs_no_query(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    wrapper.close()
    cluster.terminate(first)

    assert pid(wrapper) != first


def test_more_threads_than_connections_are_all_served(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(pool={"max_size": 3})
    most = 0

    def work() -> int:
        nonlocal most
        mine = connections[wrapper.alias]
        found = int(value(mine, "SELECT 1 FROM pg_sleep(0.02)"))
        most = max(most, connected(cluster, wrapper))
        mine.close()
        return found

    assert in_threads([work] * 12) == [1] * 12
    assert most <= 3


def test_threads_that_end_without_closing_give_back(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 3, "timeout": 15})
    forgetful = [lambda: pid(connections[wrapper.alias])] * 3
    for _ in range(10):
        in_threads(forgetful)
    together = threading.Barrier(3, timeout=15)

    def work() -> bool:
        mine = connections[wrapper.alias]
        found = pid(mine) > 0
        together.wait()
        mine.close()
        return found

    assert in_threads([work] * 3) == [True] * 3
    assert wrapper.pool.snapshot()["size"] <= 3


def test_a_wrapper_whose_thread_has_ended_can_still_be_closed(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    left: list[Any] = []

    def work() -> None:
        mine = connections[wrapper.alias]
        pid(mine)
        left.append(mine)

    in_thread(work)
    wait_until(lambda: on_loan(wrapper) == 0, "it is taken back")
    left[0].inc_thread_sharing()
    left[0].close()

    assert left[0].connection is None
    assert pid(wrapper)


@pytest.mark.parametrize("shared_first", [True, False])
def test_a_wrapper_that_threads_share_keeps_its_loan_when_the_borrowing_thread_ends(
    databases: Databases, shared_first: bool
) -> None:
    """As with Django's own backend, whose tests do this."""
    wrapper = databases.add(pool={"max_size": 2})
    left: list[Any] = []

    def work() -> int:
        mine = connections[wrapper.alias]
        if shared_first:
            mine.inc_thread_sharing()
        backend = pid(mine)
        if not shared_first:
            mine.inc_thread_sharing()
        left.append(mine)
        return backend

    backend = in_thread(work)
    # Another thread's forgotten loan is taken back after this one would have been.
    in_thread(lambda: pid(connections[wrapper.alias]))
    wait_until(lambda: on_loan(wrapper) == 1, "it is taken back")

    assert pid(left[0]) == backend
    left[0].close()
    assert pid(wrapper) == backend
    assert wrapper.pool.get_stats()["loans_reclaimed"] == 0


def test_a_shared_wrapper_that_is_collected_gives_back(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    lost = [wrapper.copy()]
    lost[0].inc_thread_sharing()
    first = in_thread(lambda: pid(lost[0]))
    lost.clear()
    gc.collect()

    assert pid(wrapper) != first


def test_a_wrapper_that_is_collected_gives_back(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    lost = wrapper.copy()
    first = pid(lost)
    del lost
    gc.collect()

    assert pid(wrapper) != first


def test_two_aliases_that_mean_one_database_share_a_pool(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 4})
    other = twin(databases, wrapper)

    assert other.pool is wrapper.pool
    assert ((wrapper.alias, "twin"), wrapper.pool) in registry.live()


def test_aliases_share_a_pool_whatever_the_use_they_are_put_to(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 4}, ATOMIC_REQUESTS=True)
    other = twin(databases, wrapper, ATOMIC_REQUESTS=False, TEST={"MIRROR": wrapper.alias})
    pool = wrapper.pool
    assert other.pool is pool

    other.settings_dict["OPTIONS"]["application_name"] = "databases-elsewhere"
    assert other.pool is not pool
    assert not pool.closed
    assert wrapper.pool is pool


def test_a_setting_nobody_knows_makes_a_pool_of_its_own(databases: Databases) -> None:
    wrapper = databases.add()
    other = twin(databases, wrapper, REGION="elsewhere")

    assert other.pool is not wrapper.pool


def test_each_thread_finds_the_same_pool(databases: Databases) -> None:
    wrapper = databases.add()

    assert in_threads([lambda: connections["spare"].pool] * 2) == [wrapper.pool] * 2


def test_a_name_that_changes_in_place_leads_to_the_other_database(
    databases: Databases, second: str, cluster: Server
) -> None:
    wrapper = databases.add()
    old = wrapper.pool
    first = value(wrapper, CURRENT)
    wrapper.close()
    wrapper.settings_dict["NAME"] = second

    assert value(wrapper, CURRENT) == second != first
    assert old.closed
    wrapper.close()
    wrapper.settings_dict["NAME"] = first
    assert value(wrapper, CURRENT) == first


def test_a_loan_that_is_out_while_the_name_changes_goes_back_to_its_own_pool(
    databases: Databases, second: str
) -> None:
    wrapper = databases.add()
    first = value(wrapper, CURRENT)
    wrapper.settings_dict["NAME"] = second
    assert value(wrapper, CURRENT) == first
    wrapper.close()

    assert value(wrapper, CURRENT) == second
    assert wrapper.pool.snapshot()["size"] == 1


def test_a_query_before_the_test_database_does_not_pin_the_real_one(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(TEST={"NAME": "connpool_swapped"})
    real = value(wrapper, CURRENT)
    wrapper.close()
    wrapper.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        assert value(wrapper, CURRENT) == "connpool_swapped"
        assert in_thread(lambda: value(connections["spare"], CURRENT)) == "connpool_swapped"
    finally:
        wrapper.creation.destroy_test_db(real, verbosity=0)

    assert value(wrapper, CURRENT) == real
    assert not cluster.execute("SELECT 1 FROM pg_database WHERE datname = 'connpool_swapped'")


def test_a_test_database_left_from_before_is_replaced_though_a_pool_is_connected_to_it(
    databases: Databases, cluster: Server
) -> None:
    cluster.execute("CREATE DATABASE connpool_left")
    left = databases.add("left", NAME="connpool_left")
    pid(left)
    left.close()
    wrapper = databases.add(TEST={"NAME": "connpool_left"})
    real = wrapper.settings_dict["NAME"]
    wrapper.creation.create_test_db(verbosity=0, autoclobber=True)
    wrapper.creation.destroy_test_db(real, verbosity=0)

    assert not cluster.execute("SELECT 1 FROM pg_database WHERE datname = 'connpool_left'")


def test_a_password_that_is_rotated_is_used_by_the_next_connection(databases: Databases) -> None:
    with Cluster(auth="scram-sha-256") as server:
        wrapper = databases.add(server=server)
        pid(wrapper)
        wrapper.close()
        server.execute("ALTER ROLE postgres PASSWORD 'the next one'")
        wrapper.settings_dict["PASSWORD"] = "the next one"
        server.reach_by(password="the next one")

        assert pid(wrapper)
        wrapper.close()
        wrapper.close_pool()


def test_the_pool_attribute_is_the_pool(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 7, "name": "of the shop"})

    assert isinstance(wrapper.pool, ConnectionPool)
    assert (wrapper.pool.max_size, wrapper.pool.name) == (7, "of the shop")
    assert wrapper.pool is wrapper.pool


def test_close_pool_closes_and_the_next_query_opens_another(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add()
    pid(wrapper)
    old = wrapper.pool
    wrapper.close()
    wrapper.close_pool()
    assert old.closed
    wait_until(lambda: connected(cluster, wrapper) == 0, "the connections are closed")

    assert pid(wrapper)
    assert wrapper.pool is not old


def test_close_pool_reaches_a_pool_that_only_other_threads_have_used(databases: Databases) -> None:
    wrapper = databases.add()
    pool = in_thread(lambda: connections["spare"].pool)
    wrapper.close_pool()

    assert pool.closed


def test_close_pool_ends_a_loan_only_when_it_is_given_back(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    wrapper.close_pool()
    assert pid(wrapper) == first
    wrapper.close()

    assert pid(wrapper) != first
    wait_until(lambda: connected(cluster, wrapper) == 1, "the old connection is closed")


@pytest.mark.parametrize("off", [False, "false", 0])
def test_without_a_pool_it_is_the_stock_backend(
    databases: Databases, cluster: Server, off: Any
) -> None:
    wrapper = databases.add(pool=off, CONN_MAX_AGE=None)
    first = pid(wrapper)
    assert not wrapper.is_pooled and wrapper.pool is None
    wrapper.close_if_unusable_or_obsolete()
    assert pid(wrapper) == first
    wrapper.close_pool()
    wrapper.close()

    wait_until(lambda: connected(cluster, wrapper) == 0, "the connection is closed")


def test_no_pool_is_between_django_and_the_postgres_database(databases: Databases) -> None:
    wrapper = databases.add()
    registry.sweep()  # of what earlier tests have left
    before = len(registry.live())
    with wrapper._nodb_cursor() as cursor:
        cursor.execute(CURRENT)
        assert cursor.fetchone() == ("postgres",)

    assert len(registry.live()) == before


def test_where_there_is_no_postgres_database_the_first_other_one_serves(
    databases: Databases, second: str
) -> None:
    with Cluster() as server:
        server.execute("CREATE DATABASE connpool_only")
        server.reach_by(dbname="connpool_only")
        server.execute("ALTER DATABASE postgres WITH ALLOW_CONNECTIONS false")
        wrapper = databases.add("aaa", server=server)
        others = connections.settings.copy()
        connections.settings.clear()
        connections.settings["aaa"] = others["aaa"]
        try:
            with (
                pytest.warns(RuntimeWarning, match="'postgres' database"),
                wrapper._nodb_cursor() as cursor,
            ):
                cursor.execute(CURRENT)
                assert cursor.fetchone() == ("connpool_only",)
        finally:
            connections.settings.update(others)
        assert on_loan(wrapper) == 0
        wrapper.close_pool()


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"assume_role": "postgres"},
        {"isolation_level": IsolationLevel.SERIALIZABLE},
        {"server_side_binding": True},
        {"pool_max_size": 3, "pool_release": "transaction"},
        {"pool_nonsense": 1},
        {"prepare_threshold": 0, "cursor_factory": ClientCursor},
    ],
    ids=lambda others: ",".join(others) or "none",
)
def test_a_pool_switched_off_takes_other_options_as_the_stock_backend_does(
    others: dict[str, Any], databases: Databases
) -> None:
    wrapper = databases.add(pool=False, options=others)
    assert value(wrapper, "SELECT 1") == 1
    with transaction.atomic(using=wrapper.alias):
        assert value(wrapper, "SELECT 2") == 2
    other = wrapper.copy("copied")
    assert value(other, "SELECT 3") == 3
    other.close()
    with django_connpool.hold("transaction", wrapper.alias), django_connpool.scope("work"):
        assert value(wrapper, "SELECT 4") == 4
    assert wrapper.pool is None and not registry.find(wrapper)
    wrapper.close_if_unusable_or_obsolete()
    wrapper.close_pool()
    wrapper.close()
    assert wrapper.alias not in django_connpool.pools
