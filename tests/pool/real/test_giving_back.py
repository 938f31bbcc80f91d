from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from django_connpool import PoolTimeout
from tests import inside
from tests.cluster import Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import (
    in_line,
    pid,
    pids_of,
    run_python,
    until,
    until_idle,
    until_known,
)

Logged = Callable[[str], list[str]]


def test_an_open_transaction_is_rolled_back_and_its_culprit_named(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=1)
    until_known(pool)
    conn = pool.getconn()
    conn.execute("CREATE TABLE never_committed (x int)")
    pool.putconn(conn)
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert logged(f"in a transaction by {threading.current_thread().name}")
    with pool.connection() as again:
        assert again is conn
        assert again.execute("SELECT to_regclass('never_committed')").fetchone() == (None,)


def test_a_failed_transaction_is_rolled_back(make_pool: MakePool, logged: Logged) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    with pytest.raises(psycopg.ProgrammingError):
        conn.execute("nonsense")
    pool.putconn(conn)
    assert logged("rolling back")
    assert pids_of(pool, 1) == [pid(conn)]


def test_a_connection_given_back_in_the_middle_of_a_copy_is_replaced(
    make_pool: MakePool, backends: Callable[[], int], logged: Logged
) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    before = [pid(conn)]
    conn.pgconn.exec_(b"COPY (SELECT generate_series(1, 1000000)) TO STDOUT")
    assert conn.info.transaction_status == TransactionStatus.ACTIVE
    pool.putconn(conn)
    assert pids_of(pool, 1) != before
    assert conn.closed
    assert backends() == 1
    assert logged("in the middle of a statement")


def test_a_connection_given_back_in_the_middle_of_a_statement_is_replaced(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=1)
    # More than once: a request to cancel is lost when it overtakes its statement.
    for _ in range(10):
        conn = pool.getconn()
        before = [pid(conn)]
        conn.pgconn.send_query(b"SELECT pg_sleep(600)")
        pool.putconn(conn)
        assert pids_of(pool, 1) != before
        assert backends() == 1


@pytest.mark.skipif(not psycopg.Pipeline.is_supported(), reason="libpq is too old")
def test_a_connection_given_back_in_the_middle_of_another_threads_statement_is_replaced(
    dsn: str,
) -> None:
    """In a process of its own: to free what the thread is at, in C, would be the end of it."""
    printed = run_python(
        """
    import gc, logging, os, sys, threading
    import psycopg
    from psycopg.pq import TransactionStatus
    from django_connpool import ConnectionPool

    asked = {"autocommit": True, "application_name": f"middle-{os.getpid()}"}
    pool = ConnectionPool(sys.argv[1], kwargs=asked, min_size=0, max_size=1, timeout=20)
    logging.disable()
    COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"

    def works(conn, seen):
        for _ in range(2):  # it does not mind what it is told, and goes on
            try:
                seen.append(conn.execute("SELECT pg_sleep(0.05), pg_sleep(600)").fetchone())
            except psycopg.Error as error:
                seen.append(type(error).__mro__)

    for _ in range(30):
        conn, seen = pool.getconn(), []
        thread = threading.Thread(target=works, args=(conn, seen))
        thread.start()
        while conn.info.transaction_status != TransactionStatus.ACTIVE:
            pass
        pool.putconn(conn)
        with pool.connection() as other:  # there is place for one: the other has gone before
            assert other.execute(COUNT, [asked["application_name"]]).fetchone() == (1,)
        thread.join(20)
        assert len(seen) == 2, seen
        # Some are told that there is no result, by an InternalError.
        assert all(psycopg.DatabaseError in told for told in seen), seen
        assert conn.closed
    del conn, other, thread, seen
    gc.collect()
    pool.close()
    print("well")
    """,
        dsn,
    )
    assert printed == "well\n"


@pytest.mark.parametrize("reset", ["auto", "always", False])
def test_a_connection_given_back_in_a_pipeline_is_replaced(make_pool: MakePool, reset: Any) -> None:
    pool = make_pool(max_size=1, reset=reset)
    conn = pool.getconn()
    before = [pid(conn)]
    conn.pgconn.enter_pipeline_mode()
    pool.putconn(conn)
    assert pids_of(pool, 1) != before
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_connection_whose_rollback_fails_is_replaced(
    make_pool: MakePool, cluster: Server, logged: Logged
) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    before = [pid(conn)]
    conn.execute("SELECT 1")
    cluster.terminate(before[0])
    pool.putconn(conn)
    assert pids_of(pool, 1) != before


def test_a_connection_that_its_borrower_closed_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        before = [pid(conn)]
        conn.close()
    assert pids_of(pool, 1) != before
    assert pool.get_stats()["returns_bad"] == 1


def test_a_connection_that_its_borrower_broke_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
        before = pid(conn)
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert pids_of(pool, 1) != [before]


def test_ctrl_c_in_the_middle_of_a_query_costs_no_place(dsn: str) -> None:
    printed = run_python(
        """
    import os, signal, sys, threading, time
    import psycopg
    from django_connpool import ConnectionPool

    signal.signal(signal.SIGINT, signal.default_int_handler)
    pool = ConnectionPool(sys.argv[1], min_size=0, max_size=1)

    def interrupt(pid):
        # Not before the server is at it: a request to cancel that comes earlier is lost.
        found = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        with psycopg.connect(sys.argv[1], autocommit=True) as other:
            while other.execute(found, [pid]).fetchone() is None:
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with pool.connection() as conn:
            threading.Thread(target=interrupt, args=(conn.info.backend_pid,)).start()
            conn.execute("SELECT pg_sleep(600)")
    except KeyboardInterrupt:
        with pool.connection(timeout=20) as conn:
            print(conn.execute("SELECT 42").fetchone())
    """,
        dsn,
    )
    assert printed == "(42,)\n"


def test_what_cannot_be_used_again_serves_those_in_line_by_a_new_one(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)
    conns = [pool.getconn(), pool.getconn()]
    waiters = in_line(pool, 5)
    for conn in conns:
        conn.close()
        pool.putconn(conn)
    for waiter in waiters:
        waiter.give_back()
    assert all(waiter.got() for waiter in waiters)


def test_what_a_borrower_set_on_the_connection_object_is_set_back(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    conn.autocommit = True
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.read_only = conn.deferrable = True
    pool.putconn(conn)
    with pool.connection() as again:
        assert again is conn
        assert not again.autocommit
        assert (again.isolation_level, again.read_only, again.deferrable) == (None, None, None)


def test_a_connection_of_nobody_or_of_another_pool_is_refused(
    make_pool: MakePool, dsn: str
) -> None:
    pool, other = make_pool(name="one"), make_pool(name="two")
    with psycopg.connect(dsn) as own, pytest.raises(ValueError, match="doesn't come from any pool"):
        pool.putconn(own)
    with other.connection() as conn, pytest.raises(ValueError, match="it comes from pool 'two'"):
        pool.putconn(conn)
    assert other.snapshot()["idle"] == 1


def test_giving_back_twice_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(ValueError, match="given back already"):
        pool.putconn(conn)
    assert pool.snapshot()["idle"] == 1


def test_two_threads_that_give_back_the_same_connection_give_back_one(make_pool: MakePool) -> None:
    both = threading.Barrier(2, timeout=10)
    pool = make_pool(max_size=2, reset=lambda conn: both.wait())
    conn = pool.getconn()
    refused: list[ValueError] = []

    def give_back() -> None:
        try:
            pool.putconn(conn)
        except ValueError as error:
            refused.append(error)

    threads = [threading.Thread(target=give_back) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    inside.change(pool, reset=lambda conn: None)
    first, second = pool.getconn(), pool.getconn()
    assert first is not second
    pool.putconn(first)
    pool.putconn(second)


def test_a_loan_of_a_pool_that_is_drained_and_closed_can_be_given_back(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool()
    conn = pool.getconn()
    pool.drain()
    pool.close()
    pool.putconn(conn)
    until(lambda: backends() == 0)


def test_what_is_given_back_to_a_closed_pool_is_closed_at_once(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=3)
    plain, changed, dirty = (pool.getconn() for _ in range(3))
    changed.execute("SET work_mem = '7MB'")
    changed.commit()
    dirty.execute("SELECT 1")
    pool.close()
    for conn in (plain, changed, dirty):
        pool.putconn(conn)
        assert conn.closed
    until(lambda: backends() == 0)


@pytest.fixture(params=["psycopg as it is", "psycopg before 3.3"])
def _close_returns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "psycopg before 3.3":
        inside.old_psycopg_closes(monkeypatch)


class Mine(psycopg.Connection[Any]):
    """A class of a user's."""


@pytest.mark.usefixtures("_close_returns")
@pytest.mark.parametrize("connection_class", [psycopg.Connection, Mine])
def test_with_close_returns_closing_gives_back(connection_class: Any, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, close_returns=True, connection_class=connection_class)
    conn = pool.getconn()
    assert isinstance(conn, connection_class)
    conn.close()
    assert not conn.closed
    assert pids_of(pool, 1) == [pid(conn)]
    pool.close()
    assert conn.closed


def test_without_close_returns_closing_closes(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    before = [pid(conn)]
    conn.close()
    assert conn.closed
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)
    pool.putconn(conn)
    assert pids_of(pool, 1) != before


def test_a_returned_connection_used_on_does_not_hurt_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    before = [pid(conn)]
    pool.putconn(conn)
    conn.close()
    assert pids_of(pool, 1) != before
    until_idle(pool, 1)


def test_a_server_side_cursor_of_an_earlier_loan_closes_without_the_connection(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1)
    until_known(pool)
    conn = pool.getconn()
    cursor = conn.cursor("left")
    cursor.execute("SELECT generate_series(1, 10)")
    pool.putconn(conn)
    again = pool.getconn()
    assert again is conn
    with again.lock:  # in the middle of a statement, in which the old one is collected
        cursor.close()
    assert cursor.closed
    pool.putconn(again)
