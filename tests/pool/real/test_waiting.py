from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from django_connpool import PoolTimeout, TooManyRequests
from tests import inside
from tests.cluster import Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.fake_server import FakeServer
from tests.pool.real.helpers import (
    DEADLINE,
    Borrower,
    holder_of,
    pids_of,
    until,
    until_idle,
    until_known,
    until_waiting,
)


def test_those_in_line_are_served_in_the_order_they_came(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    order: list[Borrower] = []
    holder = holder_of(pool)
    waiters = []
    for count in range(1, 9):
        waiters.append(Borrower(pool, served=order))
        until_waiting(pool, count)
    holder.give_back()
    for waiter in waiters:
        waiter.got()
        waiter.give_back()
    assert order == waiters


def test_a_newcomer_does_not_overtake_those_in_line(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    order: list[Borrower] = []
    first = Borrower(pool, served=order)
    until_waiting(pool, 1)
    pool.putconn(conn)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.01)
    first.got()
    first.give_back()


def test_who_waits_gets_what_comes_first_a_new_one_or_one_given_back(make_pool: MakePool) -> None:
    inside, go_on = threading.Event(), threading.Event()
    slow: list[int] = []

    def configure(conn: Any) -> None:
        if slow:
            inside.set()
            go_on.wait(DEADLINE)

    pool = make_pool(max_size=2, configure=configure)
    holder = holder_of(pool)
    slow.append(1)
    waiter = Borrower(pool)
    assert inside.wait(DEADLINE)
    holder.give_back()
    waiter.got()
    go_on.set()
    until_idle(pool, 1)
    waiter.give_back()


def test_a_timeout_is_that_of_the_pool_unless_the_borrower_says_otherwise(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1, timeout=0.05)
    holder = holder_of(pool)
    with pytest.raises(PoolTimeout, match=r"within 0\.05 s"):
        pool.getconn()
    with pytest.raises(PoolTimeout, match=r"within 0\.02 s"):
        pool.getconn(timeout=0.02)
    with pytest.raises(PoolTimeout, match=r"within 0\.03 s"), pool.connection(timeout=0.03):
        pass
    patient = Borrower(pool, timeout=DEADLINE)
    until_waiting(pool, 1)
    holder.give_back()
    patient.got()
    patient.give_back()
    stats = pool.get_stats()
    assert (stats["requests_timeouts"], stats["requests_errors"]) == (3, 3)


def test_no_time_to_wait_means_what_is_idle_or_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    until_known(pool)  # or it is cleaned, for which it gets no more than a moment
    pids = pids_of(pool, 1)
    holder = Borrower(pool, timeout=0)
    assert [holder.got()] == pids
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    holder.give_back()


def test_a_line_that_is_full_refuses_the_next_at_once(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, max_waiting=2)
    holder = holder_of(pool)
    waiters = []
    for count in (1, 2):
        waiters.append(Borrower(pool))
        until_waiting(pool, count)
    with pytest.raises(TooManyRequests, match=r"max_waiting \(2\)"):
        pool.getconn()
    holder.give_back()
    for waiter in waiters:
        waiter.got()
        waiter.give_back()


def test_who_gets_a_dead_connection_does_not_lose_its_place_in_a_full_line(
    make_pool: MakePool, cluster: Server, app: str
) -> None:
    may_connect = threading.Event()
    may_connect.set()

    def options() -> dict[str, Any]:
        may_connect.wait(DEADLINE)
        return {}

    next_came = threading.Event()

    def wake_late(waiter: Any, timeout: float) -> bool:
        return inside.wait(waiter, timeout) and next_came.wait(DEADLINE)

    pool = make_pool(max_size=1, max_waiting=1, max_lifetime=600, kwargs=options)
    conn = pool.getconn()
    with inside.waiting_by(wake_late):
        first = Borrower(pool)
        until_waiting(pool, 1)
        pool.putconn(conn)
        cluster.terminate(application_name=app)
        second = Borrower(pool)
        until_waiting(pool, 1)
        may_connect.clear()
        next_came.set()
        until_waiting(pool, 2)  # on a busy machine the new connection would be faster
        may_connect.set()
        first.got()
        first.give_back()
        second.got()
        second.give_back()


def test_a_borrower_that_gave_up_swallows_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    for _ in range(5):
        holder = holder_of(pool)
        impatient = Borrower(pool, timeout=0.02)
        patient = Borrower(pool)
        assert isinstance(impatient.failed(), PoolTimeout)
        holder.give_back()
        patient.got()
        patient.give_back()
    until_idle(pool, 1)


def test_those_who_lose_a_race_wait_as_long_as_they_said(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3, timeout=DEADLINE)
    holders = [holder_of(pool) for _ in range(3)]
    began = time.monotonic()
    losers = [Borrower(pool, timeout=0.2) for _ in range(10)]
    for loser in losers:
        assert isinstance(loser.failed(), PoolTimeout)
    assert time.monotonic() - began >= 0.2
    assert pool.get_stats()["requests_wait_ms"] >= 10 * 199
    for holder in holders:
        holder.give_back()


def test_borrowers_that_give_up_at_the_very_moment_they_are_served_lose_nothing(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=2)
    conns = [pool.getconn(), pool.getconn()]
    waiters = [Borrower(pool, timeout=0.05 + number / 2000) for number in range(40)]
    until(lambda: any(waiter.error for waiter in waiters))
    for conn in conns:
        pool.putconn(conn)
    for waiter in waiters:
        waiter.give_back()
    assert all(waiter.conn or isinstance(waiter.error, PoolTimeout) for waiter in waiters)
    assert len(set(pids_of(pool, 2))) == 2


def test_a_timeout_names_the_holders_and_the_lines_they_are_at(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2, describe=lambda: "GET /shop/")
    holders = [holder_of(pool), holder_of(pool)]
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.05)
    text = str(caught.value)
    assert f"pool {pool.name!r}" in text
    assert "2 of at most 2 open, 2 on loan" in text
    for holder in holders:
        assert re.search(rf"'{re.escape(holder.thread.name)}' for \d+\.\d\d s", text)
    assert "GET /shop/" in text
    assert f"{__file__.replace('test_waiting', 'helpers')}:" in text
    assert "in _run" in text
    assert "raise max_size" in text
    for holder in holders:
        holder.give_back()


def test_a_timeout_during_an_outage_says_why_and_carries_the_cause(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    where = [dsn]
    pool = make_pool(lambda: where[0], max_size=2)
    holder = holder_of(pool)
    fake_server.refusal = ("28000", "the house is on fire")
    where[0] = fake_server.dsn()
    patient = Borrower(pool)
    until(lambda: pool.snapshot()["last_error"])
    error = Borrower(pool, timeout=0.05).failed()
    assert isinstance(error, PoolTimeout)
    assert "the house is on fire" in str(error)
    assert isinstance(error.__cause__, psycopg.OperationalError)
    assert "the house is on fire" in str(error.__cause__)
    holder.give_back()
    patient.got()
    patient.give_back()


def test_an_attempt_to_connect_outlives_the_borrower_that_caused_it(make_pool: MakePool) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def configure(conn: Any) -> None:
        inside.set()
        go_on.wait(DEADLINE)

    pool = make_pool(configure=configure)
    waiter = Borrower(pool, timeout=0.1)
    assert inside.wait(DEADLINE)
    assert isinstance(waiter.failed(), PoolTimeout)
    go_on.set()
    until_idle(pool, 1)
    pids_of(pool, 1)
    assert pool.get_stats()["connections_num"] == 1


@pytest.mark.stress
def test_a_connect_that_hangs_blocks_nobody_else(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], kwargs={"connect_timeout": 60}, max_size=4)
    first = Borrower(pool)
    until(lambda: fake_server.attempts)
    where[0] = dsn
    second = Borrower(pool)
    assert first.got() != second.got()
    first.give_back()
    second.give_back()


@pytest.mark.stress
def test_a_connect_that_hangs_does_not_stand_for_those_who_come_later(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], kwargs={"connect_timeout": 60}, max_size=4)
    impatient = Borrower(pool, timeout=0.1)
    until(lambda: fake_server.attempts)
    assert isinstance(impatient.failed(), PoolTimeout)
    where[0] = dsn
    later = Borrower(pool)
    later.got()
    later.give_back()


@pytest.mark.stress
def test_a_spike_of_short_jobs_does_not_grow_the_pool_to_its_limit(make_pool: MakePool) -> None:
    pool = make_pool(
        min_size=4, max_size=30, max_connecting=30, configure=lambda conn: time.sleep(1.0)
    )
    pool.wait()
    pids_of(pool, 4)

    def work() -> None:
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(0.002)")

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.snapshot()["size"] < 10


def test_eight_who_come_to_an_empty_pool_are_connected_side_by_side(make_pool: MakePool) -> None:
    together = threading.Barrier(8, timeout=DEADLINE)
    pool = make_pool(max_size=8, configure=lambda conn: together.wait())
    borrowers = [Borrower(pool) for _ in range(8)]
    assert len({borrower.got() for borrower in borrowers}) == 8
    for borrower in borrowers:
        borrower.give_back()


def test_slow_jobs_make_the_pool_grow(make_pool: MakePool) -> None:
    pool = make_pool(max_size=5)
    borrowers = [Borrower(pool) for _ in range(5)]
    assert len({borrower.got() for borrower in borrowers}) == 5
    for borrower in borrowers:
        borrower.give_back()


def test_a_pool_that_was_saturated_while_connecting_was_slow_is_as_good_as_new(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=10, configure=lambda conn: time.sleep(0.05))
    served: list[int] = []

    def work() -> None:
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(0.005)")
            served.append(conn.info.backend_pid)

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
    assert len(served) == 50
    assert backends() <= 10
    until(lambda: pool.snapshot()["idle"] == pool.snapshot()["size"])
    assert len(set(pids_of(pool, 10))) == 10


def test_many_threads_share_few_connections_and_nobody_is_left_out(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=3)
    served = [0] * 24

    def work(number: int) -> None:
        for _ in range(10):
            with pool.connection() as conn:
                conn.execute("SELECT 1")
                served[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
    assert served == [10] * 24
    assert backends() <= 3
    stats = pool.get_stats()
    assert stats["requests_num"] == 240
    assert stats["requests_errors"] == 0
