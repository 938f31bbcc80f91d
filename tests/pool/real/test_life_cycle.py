from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from django_connpool import ConnectionPool, PoolClosed, PoolTimeout
from tests import inside
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import (
    DEADLINE,
    Borrower,
    holder_of,
    pid,
    pids_of,
    until,
    until_idle,
    until_waiting,
)
from tests.proxy import Proxy


def test_what_was_given_back_is_lent_again(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.connection() as first, pool.connection() as second:
        assert pid(first) != pid(second)
        pids = {pid(first), pid(second)}
    assert set(pids_of(pool, 2)) == pids
    assert pool.get_stats()["connections_num"] == 2


def test_the_last_given_back_is_the_first_lent_so_that_the_surplus_ages(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    conns = [pool.getconn() for _ in range(3)]
    for conn in conns:
        pool.putconn(conn)
    assert pids_of(pool, 1) == pids_of(pool, 1) == [pid(conns[-1])]


def test_a_block_commits_when_it_ends_well_and_rolls_back_when_it_raises(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1, reset=False)
    with pool.connection() as conn:
        before = pid(conn)
        conn.execute("CREATE TEMPORARY TABLE kept (x int)")
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        conn.execute("DROP TABLE kept")
        raise ZeroDivisionError
    with pool.connection() as conn:
        assert pid(conn) == before
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_min_size_is_opened_in_parallel(make_pool: MakePool) -> None:
    together = threading.Barrier(4, timeout=DEADLINE)
    pool = make_pool(min_size=4, max_size=4, configure=lambda conn: together.wait())
    pool.wait(DEADLINE)
    assert len(set(pids_of(pool, 4))) == 4


def test_no_more_than_max_connecting_attempts_are_under_way(make_pool: MakePool) -> None:
    under_way: list[int] = []
    most: list[int] = []
    both = threading.Barrier(2, timeout=DEADLINE)

    def configure(conn: Any) -> None:
        under_way.append(1)
        both.wait()
        most.append(len(under_way))
        both.wait()
        under_way.pop()

    pool = make_pool(min_size=6, max_size=6, max_connecting=2, configure=configure)
    pool.wait(DEADLINE)
    assert max(most) == 2


def test_wait_fails_with_the_cause_and_closes_the_pool(make_pool: MakePool, proxy: Proxy) -> None:
    proxy.refuse()
    pool = make_pool(proxy.dsn(), min_size=1)
    until(lambda: pool.snapshot()["last_error"])
    with pytest.raises(PoolTimeout, match="refused") as caught:
        pool.wait(0.05)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert pool.closed


def test_wait_ends_when_the_pool_is_closed(make_pool: MakePool, proxy: Proxy) -> None:
    proxy.blackhole()
    pool = make_pool(proxy.dsn(), min_size=1)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            pool.wait(4 * DEADLINE)
        except PoolClosed as error:
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(lambda: inside.is_waited_for(pool))
    pool.close()
    until(lambda: errors)


def test_a_pool_that_was_not_opened_lends_nothing_and_connects_to_nothing(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(open=False, min_size=2)
    assert pool.closed
    with pytest.raises(PoolClosed, match="not open yet"):
        pool.getconn()
    assert backends() == 0
    pool.open(wait=True)
    assert not pool.closed
    assert backends() == 2


def test_opening_twice_does_nothing_and_a_closed_pool_stays_closed(make_pool: MakePool) -> None:
    pool = make_pool(min_size=1)
    pool.open()
    pool.wait()
    assert pool.get_stats()["connections_num"] == 1
    pool.close()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.open()
    with pytest.raises(PoolClosed, match="is closed"):
        pool.getconn()


def test_as_a_context_manager_it_opens_and_closes(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    with make_pool(open=False, min_size=2) as pool:
        pool.wait()
        assert backends() == 2
    assert pool.closed
    until(lambda: backends() == 0)


def test_close_lets_loans_finish_and_closes_them_when_given_back(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool()
    pids_of(pool, 3)
    conn = pool.getconn()
    pool.close()
    until(lambda: backends() == 1)
    assert conn.execute("SELECT 1").fetchone() == (1,)
    pool.putconn(conn)
    assert conn.closed
    until(lambda: backends() == 0)


def test_close_tells_those_in_line_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    holder = holder_of(pool)
    waiters = [Borrower(pool) for _ in range(3)]
    until_waiting(pool, 3)
    pool.close()
    for waiter in waiters:
        assert isinstance(waiter.failed(), PoolClosed)
    holder.give_back()


def test_closing_while_connections_are_being_opened_leaves_none(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    def configure(conn: Any) -> None:
        inside.release()
        go_on.wait(DEADLINE)

    pool = make_pool(min_size=3, configure=configure)
    for _ in range(3):
        assert inside.acquire(timeout=DEADLINE)
    pool.close()
    assert backends() == 3
    go_on.set()
    until(lambda: backends() == 0)
    until(lambda: pool.snapshot()["size"] == 0)


def test_a_pool_that_is_dropped_takes_its_connections_with_it(
    dsn: str, app: str, backends: Callable[[], int]
) -> None:
    pool = ConnectionPool(f"{dsn} application_name={app}", min_size=2, open=True)
    pool.wait()
    gone = weakref.ref(pool)
    del pool
    until(lambda: gc.collect() >= 0 and gone() is None)
    until(lambda: gc.collect() >= 0 and backends() == 0)


def test_growing_by_resize_serves_those_in_line(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    first = holder_of(pool)
    second = Borrower(pool)
    until_waiting(pool, 1)
    pool.resize(0, 2)
    assert second.got() != first.got()
    for holder in (first, second):
        holder.give_back()


def test_shrinking_by_resize_closes_idle_ones_now_and_loans_when_given_back(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=4)
    conns = [pool.getconn() for _ in range(4)]
    pool.putconn(conns.pop())
    pool.resize(0, 2)
    until(lambda: backends() == 3)
    pool.putconn(conns.pop())
    until(lambda: backends() == 2)
    for conn in conns:
        pool.putconn(conn)
    until_idle(pool, 2)
    assert backends() == 2
    assert (pool.min_size, pool.max_size) == (0, 2)


def test_shrinking_by_resize_counts_what_is_being_closed_already(make_pool: MakePool) -> None:
    pool = make_pool(max_size=4)
    loan, *idle = [pool.getconn() for _ in range(4)]
    for conn in idle:
        pool.putconn(conn)
    with held_back_closing(pool):
        pool.resize(0, 2)
        pool.putconn(loan)
        assert pool.snapshot()["idle"] == 2


def test_resize_refuses_sizes_that_make_no_pool(make_pool: MakePool) -> None:
    pool = make_pool(min_size=0, max_size=4)
    with pytest.raises(ValueError, match="must not be smaller"):
        pool.resize(5, 4)
    assert (pool.min_size, pool.max_size) == (0, 4)


def test_raising_min_size_opens_what_is_missing(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.resize(3, 4)
    until_idle(pool, 3)


def test_drain_replaces_idle_ones_now_and_loans_when_given_back(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3)
    old = set(pids_of(pool, 3))
    conn = pool.getconn()
    pool.drain()
    until_idle(pool, 0)
    pool.putconn(conn)
    new = set(pids_of(pool, 3))
    assert not old & new
    assert set(pids_of(pool, 3)) == new


def test_drain_fills_the_pool_again(make_pool: MakePool) -> None:
    pool = make_pool(min_size=3, max_size=3)
    pool.wait()
    old = set(pids_of(pool, 3))
    pool.drain()
    until(lambda: pool.get_stats()["connections_num"] == 6)
    until_idle(pool, 3)
    assert not old & set(pids_of(pool, 3))


def test_what_takes_long_to_close_holds_nobody_up(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3)
    loan, *others = [pool.getconn() for _ in range(3)]
    loan.close()
    with held_back_closing(pool):
        pool.putconn(loan)
        for conn in others:
            pool.putconn(conn)
        assert len(set(pids_of(pool, 2))) == 2
        assert pool.snapshot()["closing"] == 1


def test_a_pool_may_be_closed_by_many_while_others_borrow(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=4)
    together = threading.Barrier(16, timeout=DEADLINE)
    errors: list[BaseException] = []

    def borrow() -> None:
        try:
            together.wait()
            while True:
                with pool.connection() as conn:
                    conn.execute("SELECT 1")
        except PoolClosed:
            pass
        except BaseException as error:
            errors.append(error)

    def close() -> None:
        together.wait()
        until(lambda: pool.get_stats()["requests_num"] > 50)
        pool.close()

    threads = [threading.Thread(target=work) for work in [borrow] * 8 + [close] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
        assert not thread.is_alive()
    assert errors == []
    until(lambda: backends() == 0)
    until(lambda: pool.snapshot()["size"] == 0)


def test_drain_replaces_what_was_being_opened_at_the_moment(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pids: list[int] = []
    inside, go_on = threading.Event(), threading.Event()

    def configure(conn: Any) -> None:
        pids.append(pid(conn))
        inside.set()
        go_on.wait(DEADLINE)

    pool = make_pool(max_size=1, configure=configure)
    borrower = Borrower(pool)
    assert inside.wait(DEADLINE)
    pool.drain()
    go_on.set()
    assert borrower.got() == pids[1]
    assert backends() == 1
    borrower.give_back()


def test_a_suspended_pool_lends_nothing_and_takes_back_everything(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pool.suspend()
    order: list[Borrower] = []
    waiters = []
    for count in (1, 2):
        waiters.append(Borrower(pool, served=order))
        until_waiting(pool, count)
    pool.putconn(conn)
    assert pool.snapshot()["idle"] == 1
    assert pool.snapshot()["waiting"] == 2
    with pytest.raises(PoolTimeout, match="suspended"):
        pool.getconn(timeout=0.05)
    pool.resume()
    for waiter in waiters:
        waiter.got()
        waiter.give_back()
    assert order == waiters


def test_a_pool_that_waits_for_warm_opens_min_size_only_then(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(min_size=3, keep_min=False)
    pids_of(pool, 1)
    assert backends() == 1
    pool.warm()
    until_idle(pool, 3)
    assert backends() == 3


@contextmanager
def held_back_closing(pool: ConnectionPool[Any]) -> Iterator[None]:
    """While in the block, the pool's workers close nothing."""
    go_on = threading.Event()

    def wait(close: Callable[[], None]) -> None:
        go_on.wait(DEADLINE)
        close()

    try:
        with inside.closing_by(pool, wait):
            yield
    finally:
        go_on.set()
