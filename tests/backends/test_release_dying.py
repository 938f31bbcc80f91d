"""release: "transaction", and a server that ends the session at one step of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from tests.cluster import Server
from tests.databases import Databases, on_loan, pid, value

SIZE = 2


@pytest.fixture
def early(databases: Databases) -> Any:
    return databases.add(pool={"max_size": SIZE, "release": "transaction", "timeout": 5})


def killed(server: Server, wrapper: Any) -> None:
    """The backend of the wrapper's next statement is gone."""
    assert server.terminate(pid(wrapper)) == 1


def everything_is_in_order(wrapper: Any) -> None:
    """It works again, by itself and in a block; no slot and no transaction is left over."""
    assert value(wrapper, "SELECT 1") == 1
    with transaction.atomic(using=wrapper.alias):
        first = pid(wrapper)
        assert pid(wrapper) == first
    assert on_loan(wrapper) == 0
    all_of_them = [wrapper.pool.getconn() for _ in range(SIZE)]
    for conn in all_of_them:
        wrapper.pool.putconn(conn)
    assert wrapper.pool.get_stats()["pool_size"] == SIZE


def test_before_the_first_statement(early: Any, cluster: Server) -> None:
    killed(cluster, early)
    early.close_if_unusable_or_obsolete()
    assert value(early, "SELECT 1") == 1
    everything_is_in_order(early)


def test_between_two_statements_the_second_is_run_on_another_connection(
    early: Any, cluster: Server
) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        first = cursor.fetchone()[0]
        assert cluster.terminate(first) == 1
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone()[0] != first
    everything_is_in_order(early)


def second_statement(wrapper: Any, kill: Callable[[], None]) -> None:
    with transaction.atomic(using=wrapper.alias):
        kill()
        value(wrapper, "SELECT 2")


def statement_after_a_savepoint(wrapper: Any, kill: Callable[[], None]) -> None:
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
        with transaction.atomic(using=wrapper.alias):
            kill()
            value(wrapper, "SELECT 2")


def end_of_a_savepoint(wrapper: Any, kill: Callable[[], None]) -> None:
    with transaction.atomic(using=wrapper.alias), transaction.atomic(using=wrapper.alias):
        kill()


def commit(wrapper: Any, kill: Callable[[], None]) -> None:
    with transaction.atomic(using=wrapper.alias):
        kill()


def rollback(wrapper: Any, kill: Callable[[], None]) -> None:
    with transaction.atomic(using=wrapper.alias):
        kill()
        raise DatabaseError("of the view")


def half_read_cursor(wrapper: Any, kill: Callable[[], None]) -> None:
    with wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 1000)")
        cursor.fetchmany(10)
        kill()
        cursor.fetchmany(500)


def pinned_session(wrapper: Any, kill: Callable[[], None]) -> None:
    value(wrapper, "SELECT set_config('work_mem', '7MB', false)")
    kill()
    value(wrapper, "SELECT 2")


@pytest.mark.parametrize(
    "step",
    [
        second_statement,
        statement_after_a_savepoint,
        end_of_a_savepoint,
        commit,
        rollback,
        half_read_cursor,
        pinned_session,
    ],
)
def test_in_hand_it_is_an_error_once_and_then_all_is_well(
    early: Any, cluster: Server, step: Callable[[Any, Callable[[], None]], None]
) -> None:
    happened = []

    def kill() -> None:
        transaction.on_commit(lambda: happened.append("committed"), using=early.alias)
        killed(cluster, early)

    in_a_block = step not in (half_read_cursor, pinned_session)
    with pytest.raises(DatabaseError):
        step(early, kill if in_a_block else lambda: killed(cluster, early))

    assert not happened
    assert not early.in_atomic_block
    early.close_if_unusable_or_obsolete()
    everything_is_in_order(early)


def test_close_all_in_the_middle_of_everything(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT 1")
        connections.close_all()
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)
    value(early, "SELECT set_config('work_mem', '7MB', false)")
    assert on_loan(early) == 1
    connections.close_all()
    assert on_loan(early) == 0
    assert value(early, "SHOW work_mem") != "7MB"
    unread = early.chunked_cursor()
    unread.execute("SELECT generate_series(1, 1000)")
    unread.fetchmany(10)
    connections.close_all()
    with pytest.raises(DatabaseError):
        unread.fetchmany(500)
    unread.close()
    everything_is_in_order(early)
