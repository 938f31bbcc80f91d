from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import OperationalError
from django.test.utils import CaptureQueriesContext
from psycopg import ClientCursor

import django_connpool
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, in_hand, in_thread, in_threads, on_loan, pid, value


@pytest.fixture
def early(databases: Databases) -> Any:
    """This thread's wrapper of a database whose only connection goes back early."""
    return databases.add(pool={"max_size": 1, "release": "transaction", "timeout": 5})


def held(wrapper: Any) -> bool:
    """Whether the wrapper has its connection; the pool must agree."""
    has = in_hand(wrapper) is not None
    assert on_loan(wrapper) == has
    return has


def pin(wrapper: Any) -> str | None:
    (loan,) = wrapper.pool.snapshot()["loans"]
    return loan["pinned"]


def test_a_statement_gives_back_when_its_answer_is_read(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert not held(early)
        assert cursor.rowcount == 3
        assert cursor.description[0].name == "generate_series"
        assert cursor.fetchone() == (1,)
        assert cursor.fetchmany(1) == [(2,)]
        assert list(cursor) == [(3,)]
        cursor.execute("SELECT %s", ["again"])
        assert cursor.fetchall() == [("again",)]
    assert not held(early)
    with pytest.raises(InterfaceError, match="closed"):
        cursor.execute("SELECT 1")


def test_a_statement_that_fails_gives_back(early: Any) -> None:
    for query in ("SELECT nonsense", "SELECT 1 / 0"):
        with pytest.raises(DatabaseError):
            value(early, query)
        assert not held(early)


def test_executemany_copy_and_stream_keep_it_for_as_long_as_they_take(early: Any) -> None:
    value(early, "SELECT 1")
    with early.cursor() as cursor:
        cursor.executemany("SELECT %s", [(1,), (2,)])
        assert not held(early)
        with cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert held(early)
            assert list(copy.rows()) == [("1",)]
        assert not held(early)
        rows = cursor.stream("SELECT generate_series(1, 3)")
        assert next(rows) == (1,)
        assert held(early)
        assert list(rows) == [(2,), (3,)]
        assert not held(early)


def test_a_copy_that_fails_gives_back(early: Any) -> None:
    with early.cursor() as cursor:
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY (SELECT 1) TO STDOUT"):
            raise ZeroDivisionError
        assert not held(early)
    assert value(early, "SELECT 1") == 1


def test_a_block_keeps_one_connection_and_gives_it_back_before_the_hooks(early: Any) -> None:
    seen: list[bool] = []
    with transaction.atomic(using=early.alias):
        first = pid(early)
        with transaction.atomic(using=early.alias):
            assert pid(early) == first
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=early.alias):
            raise ZeroDivisionError
        assert pid(early) == first
        transaction.on_commit(lambda: seen.append(held(early)), using=early.alias)
        transaction.on_commit(lambda: seen.append(bool(pid(early))), using=early.alias)
        assert held(early)
    assert seen == [False, True]
    assert not held(early)


def test_a_block_that_fails_gives_back(early: Any) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=early.alias, durable=True):
        pid(early)
        raise ZeroDivisionError
    assert not held(early)
    with pytest.raises(DatabaseError), transaction.atomic(using=early.alias):
        value(early, "SELECT nonsense")
    assert not held(early)
    assert value(early, "SELECT 1") == 1


def test_a_block_whose_connection_dies_gives_back_and_the_next_query_works(
    early: Any, cluster: Server
) -> None:
    with pytest.raises(DatabaseError), transaction.atomic(using=early.alias):
        cluster.terminate(pid(early))
        value(early, "SELECT 1")
    assert not held(early)
    assert value(early, "SELECT 1") == 1


def test_autocommit_switched_off_by_hand_keeps_it_until_it_is_switched_on(early: Any) -> None:
    early.set_autocommit(False)
    first = pid(early)
    early.commit()
    assert held(early)
    assert pid(early) == first
    early.rollback()
    assert early.get_autocommit() is False
    early.set_autocommit(True)
    assert not held(early)
    assert early.get_autocommit() is True
    assert not held(early)


def test_without_autocommit_each_transaction_gives_back(databases: Databases) -> None:
    early = databases.add(pool={"max_size": 1, "release": "transaction"}, AUTOCOMMIT=False)
    for end in (early.commit, early.rollback):
        value(early, "SELECT 1")
        assert held(early)
        end()
        assert not held(early)
    with transaction.atomic(using=early.alias):
        value(early, "SELECT 1")
    assert held(early)
    early.rollback()
    assert not held(early)


def test_a_transaction_begun_by_hand_keeps_it(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("BEGIN")
        assert held(early)
        cursor.execute("SELECT 1")
        assert held(early)
        cursor.execute("COMMIT")
        assert not held(early)


def test_an_iterator_keeps_it_until_it_is_closed(early: Any) -> None:
    with early.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        assert cursor.fetchmany(2) == [(1,), (2,)]
        assert held(early)
        assert pin(early) == "cursors"
        assert value(early, "SELECT 1") == 1
        assert len(cursor.fetchall()) == 298
    assert not held(early)


def test_several_cursors_at_once_on_one_connection(early: Any) -> None:
    with early.cursor() as first, early.cursor() as second:
        first.execute("SELECT 1")
        second.execute("SELECT 2")
        first.execute("SELECT 3")
        assert (first.fetchone(), second.fetchone()) == ((3,), (2,))
    assert not held(early)


def test_what_is_set_on_a_cursor_stays_on_it(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.cursor.arraysize = 2
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchmany() == [(1,), (2,)]


def test_who_asks_for_the_connection_itself_keeps_it(early: Any) -> None:
    early.ensure_connection()
    raw = early.connection
    value(early, "SELECT 1")
    assert early.connection is raw
    assert pin(early) == "taken by reading `connection`"
    early.close()
    value(early, "SELECT 1")
    assert not held(early)


def test_the_connection_of_a_cursor_is_there_while_the_cursor_is_open(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.connection.info.backend_pid
    assert not held(early)
    assert early.pg_version >= 140000


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SET app.tenant = '42'", "settings"),
        ("SELECT pg_advisory_lock(1)", "advisory locks"),
        ("CREATE TEMP TABLE t (x int)", "temporary objects"),
        ("LISTEN channel", "channels"),
        ("PREPARE p AS SELECT 1", "prepared statements"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursors"),
    ],
)
def test_a_session_with_state_stays_with_its_borrower_and_says_why(
    early: Any, statement: str, why: str
) -> None:
    with early.cursor() as cursor:
        cursor.execute(statement)
    assert held(early)
    assert pin(early) == why
    first = pid(early)
    assert held(early)
    early.close()
    assert pid(early) == first
    assert not held(early)


def test_a_connection_object_that_was_changed_stays(early: Any) -> None:
    early.ensure_connection()
    early.connection.add_notice_handler(print)
    early.by_hand = False
    value(early, "SELECT 1")
    assert pin(early) == "the connection object was changed"


def test_a_set_that_was_rolled_back_or_local_does_not_keep_it(early: Any) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=early.alias):
        early.cursor().execute("SET app.tenant = '42'")
        raise ZeroDivisionError
    assert not held(early)
    with transaction.atomic(using=early.alias):
        early.cursor().execute("SET LOCAL app.tenant = '42'")
    assert not held(early)


def test_what_psycopg_prepared_under_other_names_does_not_keep_it(databases: Databases) -> None:
    pool = {"max_size": 1, "release": "transaction"}
    options = {"prepare_threshold": 0, "server_side_binding": True}
    wrapper = databases.add(pool=pool, options=options)
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT set_config('search_path', 'pg_catalog', true)")
        value(wrapper, "SELECT 1")
    assert not held(wrapper)
    assert value(wrapper, "SELECT count(*) FROM pg_prepared_statements") <= 1  # itself


def test_an_insert_with_a_serial_key_does_not_keep_it(early: Any) -> None:
    with transaction.atomic(using=early.alias):
        early.cursor().execute("CREATE TABLE IF NOT EXISTS serials (id serial, x int)")
    early.close()
    value(early, "INSERT INTO serials (x) VALUES (1) RETURNING id")
    assert not held(early)
    early.cursor().execute("DROP TABLE serials")


def test_pinned_keeps_one_connection_for_a_block(early: Any) -> None:
    with django_connpool.pinned(early.alias):
        first = pid(early)
        assert held(early)
        assert pid(early) == first
        django_connpool.release()
        assert held(early)
        with transaction.atomic(using=early.alias):
            assert pid(early) == first
    assert not held(early)
    with django_connpool.pinned():
        assert not held(early)


def test_pinned_gives_back_when_its_block_fails(early: Any) -> None:
    with pytest.raises(ZeroDivisionError), django_connpool.pinned(early.alias):
        pid(early)
        raise ZeroDivisionError
    assert not held(early)


def test_hold_changes_the_mode_for_a_block(early: Any) -> None:
    never = float("inf")
    with django_connpool.hold("request", early.alias):
        pid(early)
        assert inside.terms(early) == (never, never) and on_loan(early) == 1
        with django_connpool.hold("transaction", early.alias):
            pid(early)
            assert not held(early)
        pid(early)
        with django_connpool.hold("auto", early.alias):
            assert inside.terms(early) == (inside.tuning("offer_settled"), never)
        assert inside.terms(early) == (never, never) and on_loan(early) == 1
        value(early, "SELECT 1")
    value(early, "SELECT 1")
    assert not held(early)
    with (
        pytest.raises(ValueError, match='"auto", "request" or "transaction"'),
        django_connpool.hold("session"),
    ):
        pass


def test_hold_releases_early_where_the_option_does_not(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pid(wrapper)
    with django_connpool.hold("transaction"):
        pid(wrapper)
        assert not held(wrapper)
    pid(wrapper)
    assert on_loan(wrapper) == 1


def test_released_refuses_inside_a_transaction(early: Any) -> None:
    with (
        transaction.atomic(using=early.alias),
        pytest.raises(TransactionManagementError),
        django_connpool.released(early.alias),
    ):
        pass


def test_wrappers_of_execution_and_recorded_queries_see_everything(early: Any) -> None:
    seen: list[str] = []

    def wrap(execute: Any, sql: str, *args: Any) -> Any:
        seen.append(sql)
        return execute(sql, *args)

    with early.execute_wrapper(wrap), CaptureQueriesContext(early) as queries:
        value(early, "SELECT %s", [1])
        with transaction.atomic(using=early.alias):
            value(early, "SELECT 2")
    assert seen == ["SELECT %s", "SELECT 2"]
    assert [query["sql"] for query in queries] == ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT"]


def test_many_threads_share_few_connections(databases: Databases) -> None:
    early = databases.add(pool={"max_size": 2, "release": "transaction"})
    # Every thread is in the middle of its work while all others have their turns.
    together = threading.Barrier(16, timeout=30)

    def work() -> list[int]:
        from django.db import connections

        mine = connections[early.alias]
        found = []
        for number in range(5):
            found.append(value(mine, "SELECT %s", [number]))
            together.wait()
        return found

    assert in_threads([work] * 16) == [[0, 1, 2, 3, 4]] * 16
    assert early.pool.get_stats()["connections_num"] <= 2


def test_nobody_sees_the_state_of_another_between_two_statements(early: Any) -> None:
    def other() -> Any:
        from django.db import connections

        return value(connections[early.alias], "SELECT current_setting('work_mem')")

    before = in_thread(other)
    with transaction.atomic(using=early.alias):
        early.cursor().execute("SET LOCAL work_mem = '7MB'")
        assert value(early, "SELECT current_setting('work_mem')") == "7MB"
    assert in_thread(other) == before
    with pytest.raises(OperationalError, match="1 on loan"):
        early.cursor().execute("SELECT pg_advisory_lock(1)")
        early.pool.timeout = 0.05
        in_thread(other)


@contextmanager
def a_test_case(wrapper: Any) -> Iterator[None]:
    with transaction.atomic(using=wrapper.alias):
        yield
        transaction.set_rollback(True, using=wrapper.alias)


def test_the_transaction_of_a_test_case_keeps_one_connection(early: Any) -> None:
    with a_test_case(early):
        first = pid(early)
        with transaction.atomic(using=early.alias):
            pass
        assert pid(early) == first
        early.close_if_unusable_or_obsolete()
        assert pid(early) == first
    assert not held(early)


def test_two_aliases_nest_with_one_connection_each(databases: Databases) -> None:
    pool = {"max_size": 1, "release": "transaction", "timeout": 5}
    first, second = databases.add("first", pool=pool), databases.add("second", pool=pool)
    with transaction.atomic(using="first"), transaction.atomic(using="second"):
        assert pid(first) != pid(second)
    assert not held(first) and not held(second)


def test_other_databases_are_not_touched() -> None:
    assert connection.release != "transaction"


def test_settings_that_change_are_noticed_by_the_next_request(early: Any) -> None:
    first = early.pool
    value(early, "SELECT 1")
    early.settings_dict["OPTIONS"]["pool"]["timeout"] = 7
    early.close_if_unusable_or_obsolete()
    assert value(early, "SELECT 1") == 1
    assert early.pool is not first
    assert early.pool.timeout == 7


def test_a_pool_that_was_closed_is_replaced_in_the_middle_of_a_request(early: Any) -> None:
    first = early.pool
    value(early, "SELECT 1")
    first.close()
    assert value(early, "SELECT 1") == 1
    assert early.pool is not first


def test_what_the_pool_raises_in_the_middle_of_a_request_is_djangos(early: Any) -> None:
    from django.db import connections

    value(early, "SELECT 1")
    early.pool.timeout = 0.05
    early.pool.suspend()
    with pytest.raises(OperationalError, match="no connection became free"):
        value(early, "SELECT 1")
    early.pool.resume()
    assert in_thread(lambda: value(connections[early.alias], "SELECT 1")) == 1


def test_hooks_wait_for_autocommit_where_it_is_off(databases: Databases) -> None:
    early = databases.add(pool={"max_size": 1, "release": "transaction"}, AUTOCOMMIT=False)
    seen: list[int] = []
    with transaction.atomic(using=early.alias):
        value(early, "SELECT 1")
        transaction.on_commit(lambda: seen.append(1), using=early.alias)
    early.commit()
    assert not held(early)
    assert seen == []
    early.set_autocommit(True)
    assert seen == [1]


def test_a_connection_with_another_class_of_cursors_is_used_by_django_too(early: Any) -> None:
    early.ensure_connection()
    early.connection.cursor_factory = ClientCursor
    assert value(early, "SELECT %s", [1]) == 1


def test_async_code_is_refused_in_the_middle_of_a_request(early: Any) -> None:
    value(early, "SELECT 1")

    async def view() -> None:
        value(early, "SELECT 1")

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(view())
    assert not held(early)
