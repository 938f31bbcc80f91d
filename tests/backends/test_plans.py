"""Prepared statements of psycopg's after a migration that changed what they return."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, NotSupportedError, connections, transaction

from django_connpool import ConnectionPool
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, in_threads, pid, value
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until

QUERY = "SELECT * FROM connpool_plans"
STALE = "cached plan must not change result type"


@pytest.fixture
def table(cluster: Server) -> Iterator[Server]:
    """A table with one column, and a server on which it may be changed."""
    cluster.execute("DROP TABLE IF EXISTS connpool_plans")
    cluster.execute("CREATE TABLE connpool_plans AS SELECT 1 AS one")
    yield cluster
    cluster.execute("DROP TABLE connpool_plans")


def migrate(server: Server) -> None:
    """As a migration does in another process."""
    server.execute("ALTER TABLE connpool_plans ADD COLUMN more int DEFAULT 2")


def migrate_back(server: Server) -> None:
    server.execute("ALTER TABLE connpool_plans DROP COLUMN more")


@pytest.fixture(params=[0, 2])
def wrapper(request: Any, databases: Databases, table: Server) -> Any:
    """One that prepares at once, or the third time."""
    options = {"server_side_binding": True, "prepare_threshold": request.param}
    return databases.add(pool={"max_size": 1}, options=options)


def rows(wrapper: Any, query: str = QUERY, **kwargs: Any) -> list[Any]:
    with wrapper.cursor() as cursor, wrapper.wrap_database_errors:
        # Past Django's cursor, which has no such arguments.
        cursor.cursor.execute(query, **kwargs)
        return list(cursor.fetchall())


def backends(server: Server) -> set[int]:
    return {pid for (pid,) in server.execute("SELECT pid FROM pg_stat_activity")}


def prepared(wrapper: Any) -> int:
    """How many statements like ours the server keeps for this connection."""
    query = (
        "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT * FROM conn%%'"
    )
    with wrapper.cursor() as cursor:
        cursor.cursor.execute(query, prepare=False)
        return int(cursor.fetchone()[0])


def prepare(wrapper: Any) -> None:
    for _ in range(4):
        assert rows(wrapper) == [(1,)]
    assert prepared(wrapper) == 1


def test_a_statement_outside_of_a_transaction_is_sent_once_more(
    wrapper: Any, table: Server
) -> None:
    prepare(wrapper)
    first = pid(wrapper)
    migrate(table)

    for _ in range(4):
        assert rows(wrapper) == [(1, 2)]
        assert pid(wrapper) == first


def test_it_works_at_each_migration_of_one_loan(wrapper: Any, table: Server) -> None:
    prepare(wrapper)
    migrate(table)
    assert rows(wrapper) == [(1, 2)]
    prepare_again = [rows(wrapper) for _ in range(4)]
    migrate_back(table)

    assert prepare_again == [[(1, 2)]] * 4
    assert [rows(wrapper) for _ in range(4)] == [[(1,)]] * 4


def test_so_it_is_with_a_statement_that_asks_to_be_prepared(wrapper: Any, table: Server) -> None:
    for _ in range(2):
        rows(wrapper, prepare=True)
    migrate(table)

    for _ in range(3):
        assert rows(wrapper, prepare=True) == [(1, 2)]


def test_in_a_transaction_the_error_is_raised_and_the_next_one_works(
    wrapper: Any, table: Server
) -> None:
    prepare(wrapper)
    first = pid(wrapper)
    migrate(table)
    with pytest.raises(NotSupportedError, match=STALE), transaction.atomic(wrapper.alias):
        rows(wrapper)
    with transaction.atomic(wrapper.alias):
        assert rows(wrapper) == [(1, 2)]
        assert pid(wrapper) == first


def test_after_a_rollback_to_a_savepoint_the_same_transaction_goes_on(
    wrapper: Any, table: Server
) -> None:
    prepare(wrapper)
    migrate(table)
    with transaction.atomic(wrapper.alias):
        with pytest.raises(NotSupportedError), transaction.atomic(wrapper.alias):
            rows(wrapper)
        assert [rows(wrapper) for _ in range(4)] == [[(1, 2)]] * 4


def test_such_a_session_is_not_lent_again_nor_one_that_was_opened_before(
    databases: Databases, table: Server
) -> None:
    options = {"server_side_binding": True, "prepare_threshold": 0}
    wrapper = databases.add(pool={"max_size": 3}, options=options)
    until_known(wrapper.pool)  # else each session is cleaned of everything
    together = threading.Barrier(3)

    def prepare_at_once() -> int:
        mine = connections[wrapper.alias]
        with transaction.atomic(wrapper.alias):
            rows(mine)
            together.wait(30)
            found = pid(mine)
        mine.close()
        return found

    before = set(in_threads([prepare_at_once] * 3))
    migrate(table)
    with pytest.raises(NotSupportedError), transaction.atomic(wrapper.alias):
        rows(wrapper)
    wrapper.close()
    wait_until(lambda: not before & backends(table), "all are replaced")
    for _ in range(3):
        with transaction.atomic(wrapper.alias):
            assert rows(wrapper) == [(1, 2)]
        wrapper.close()

    assert wrapper.pool.get_stats()["connections_num"] == 4


def test_who_finds_out_later_has_those_replaced_no_second_time(table: Server, dsn: str) -> None:
    def use(conn: Any) -> int:
        conn.execute(QUERY, prepare=True)
        conn.commit()
        return int(conn.info.backend_pid)

    with ConnectionPool[Any](dsn, min_size=0, max_size=2) as pool:
        until_known(pool)  # else each session is cleaned of everything
        late = pool.getconn()
        use(late)
        with pool.connection() as conn:
            first = use(conn)
        migrate(table)
        with pytest.raises(psycopg.errors.FeatureNotSupported), pool.connection() as conn:
            use(conn)
        wait_until(lambda: first not in backends(table), "it is replaced")
        with pool.connection() as conn:
            new = use(conn)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            use(late)
        inside.read_notes(pool)
        with pool.connection() as conn:
            assert use(conn) == new
        pool.putconn(late)


def test_what_a_function_runs_into_is_not_sent_again(wrapper: Any, table: Server) -> None:
    """It may have done something before, and what a sequence has counted is not undone."""
    table.execute("CREATE SEQUENCE connpool_plans_calls")
    with wrapper.cursor() as cursor:
        cursor.execute(f"PREPARE connpool_plan AS {QUERY}")
        cursor.execute("EXECUTE connpool_plan")
        migrate(table)
        with pytest.raises(NotSupportedError, match=STALE):
            cursor.execute(
                "DO $$ BEGIN PERFORM nextval('connpool_plans_calls'); "
                "EXECUTE 'EXECUTE connpool_plan'; END $$"
            )
    assert table.execute("SELECT last_value, is_called FROM connpool_plans_calls") == [(1, True)]
    table.execute("DROP SEQUENCE connpool_plans_calls")


def test_of_many_executions_the_error_is_raised_and_the_next_ones_work(
    wrapper: Any, table: Server
) -> None:
    """The first of them may have been done."""

    def select() -> None:
        with wrapper.cursor() as cursor:
            cursor.executemany(f"{QUERY} WHERE one > %s", [[0], [1]])

    select()
    migrate(table)
    with pytest.raises(NotSupportedError, match=STALE):
        select()
    select()


def test_what_is_not_supported_for_another_reason_is_raised_as_ever(
    wrapper: Any, table: Server
) -> None:
    with pytest.raises(NotSupportedError, match="cross-database"):
        rows(wrapper, "SELECT * FROM elsewhere.public.connpool_plans")
    with pytest.raises(DatabaseError, match="division"):
        value(wrapper, "SELECT 1/0")


def test_in_a_plain_pool_the_loan_goes_on_with_new_plans(table: Server, dsn: str) -> None:
    with ConnectionPool[Any](dsn, min_size=1, max_size=1) as pool, pool.connection() as conn:
        conn.autocommit = True
        for change in (migrate, migrate_back):
            for _ in range(2):
                conn.execute(QUERY, prepare=True)
            change(table)
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                conn.execute(QUERY, prepare=True)
            for _ in range(3):
                conn.execute(QUERY, prepare=True)


def test_a_server_side_cursor_has_no_stale_plan(wrapper: Any, table: Server) -> None:
    """psycopg prepares no DECLARE; what was prepared beside it is found out in its own time."""
    prepare(wrapper)
    migrate(table)
    with transaction.atomic(wrapper.alias), wrapper.chunked_cursor() as cursor:
        cursor.execute(QUERY)
        assert list(cursor) == [(1, 2)]
    assert [rows(wrapper) for _ in range(4)] == [[(1, 2)]] * 4


@pytest.mark.skipif(not psycopg.capabilities.has_pipeline(), reason="libpq has no pipelines")
def test_in_a_pipeline_the_error_is_raised_and_the_next_ones_work(
    wrapper: Any, table: Server
) -> None:
    prepare(wrapper)
    migrate(table)
    connection = wrapper.connection

    def in_a_pipeline() -> list[Any]:
        with connection.pipeline():
            first = connection.execute(QUERY)
            second = connection.execute(QUERY)
            return [*first.fetchall(), *second.fetchall()]

    with pytest.raises(psycopg.errors.FeatureNotSupported, match=STALE):
        in_a_pipeline()
    for _ in range(4):
        assert in_a_pipeline() == [(1, 2)] * 2
    assert [rows(wrapper) for _ in range(4)] == [[(1, 2)]] * 4


def test_a_transaction_of_a_hundred_statements_meets_one_stale_plan(
    wrapper: Any, table: Server
) -> None:
    """All that a session has prepared is forgotten at once, not one statement after the other."""
    queries = [f"SELECT one, connpool_plans.* FROM connpool_plans WHERE one < {n}" for n in "2345"]
    for query in queries:
        for _ in range(4):
            assert rows(wrapper, query) == [(1, 1)]
    migrate(table)
    with pytest.raises(NotSupportedError), transaction.atomic(wrapper.alias):
        rows(wrapper, queries[0])
    with transaction.atomic(wrapper.alias):
        assert [rows(wrapper, query) for query in queries * 3] == [[(1, 1, 2)]] * 12
