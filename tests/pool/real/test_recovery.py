from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from django_connpool import PoolTimeout
from tests import inside
from tests.cluster import Cluster, Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import (
    Borrower,
    holder_of,
    pid,
    pids_of,
    served,
    until,
    until_idle,
    until_known,
    until_waiting,
)
from tests.proxy import Proxy


@pytest.fixture(scope="module")
def frail_cluster() -> Iterator[Cluster]:
    """A server for the tests of this file to restart."""
    with Cluster() as started:
        yield started


@pytest.fixture
def frail_proxy(frail_cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(frail_cluster) as started:
        yield started


def use_all(pool: Any, count: int) -> list[int]:
    """So many threads borrow at once and use what they got; return their backends."""
    pids: list[int] = []
    together = threading.Barrier(count, timeout=30)

    def work() -> None:
        with pool.connection() as conn:
            conn.execute("SELECT 1")
            pids.append(pid(conn))
            together.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return pids


@pytest.mark.stress
@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_after_a_restart_no_borrower_meets_a_dead_connection(
    make_pool: MakePool, frail_cluster: Cluster, count: int, mode: str
) -> None:
    pool = make_pool(frail_cluster.dsn(), max_size=20)
    before = set(pids_of(pool, count))
    assert pool.snapshot()["idle"] == count
    frail_cluster.restart(mode)
    assert served(pool) not in {0, *before}
    after = use_all(pool, count)
    assert len(after) == count
    stats = pool.get_stats()
    assert (stats["requests_errors"], stats["connections_errors"]) == (0, 0)


def test_a_killed_idle_connection_is_never_seen(
    make_pool: MakePool, cluster: Server, app: str
) -> None:
    pool = make_pool(max_size=3)
    before = pids_of(pool, 3)
    cluster.terminate(before[2])
    assert served(pool)
    assert cluster.backends(application_name=app) <= 3
    assert before[2] not in use_all(pool, 3)
    assert pool.get_stats()["connections_lost"] == 1


def test_a_connection_reset_by_the_network_is_never_seen(make_pool: MakePool, proxy: Proxy) -> None:
    pool = make_pool(proxy.dsn(), max_size=3)
    before = pids_of(pool, 3)
    proxy.drop()
    sockets = [inside.pgconn_of(slot).socket for slot in inside.idle(pool)]
    until(lambda: len(select.select(sockets, [], [], 0)[0]) == 3)
    assert len(use_all(pool, 3)) == 3
    assert not set(before) & set(pids_of(pool, 3))


def test_min_size_is_refilled_after_a_loss(make_pool: MakePool, cluster: Server, app: str) -> None:
    pool = make_pool(min_size=3, max_size=3)
    pool.wait()
    cluster.terminate(application_name=app)
    assert served(pool)
    until_idle(pool, 3)
    assert cluster.backends(application_name=app) == 3


def test_a_loan_that_died_unnoticed_is_not_handed_to_the_next_in_line(
    make_pool: MakePool, cluster: Server
) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    before = pid(conn)
    waiter = Borrower(pool)
    until_waiting(pool, 1)
    cluster.terminate(before)
    pool.putconn(conn)
    assert waiter.got() != before
    waiter.conn.execute("SELECT 1")
    waiter.give_back()


def test_while_the_server_is_away_borrowers_are_told_at_once_and_then_it_is_back(
    make_pool: MakePool, frail_cluster: Cluster
) -> None:
    pool = make_pool(frail_cluster.dsn(), min_size=2, outage_patience=0.1)
    pool.wait()
    frail_cluster.stop()
    with pytest.raises(psycopg.OperationalError, match="refused") as caught:
        pool.getconn(timeout=600)
    assert not isinstance(caught.value, PoolTimeout)
    frail_cluster.start()
    assert until(lambda: served(pool))
    until_idle(pool, 2)


def test_loans_survive_an_outage_of_new_connections(
    make_pool: MakePool, frail_proxy: Proxy
) -> None:
    pool = make_pool(frail_proxy.dsn(), max_size=2)
    holder = holder_of(pool)
    frail_proxy.refuse()
    waiter = Borrower(pool)
    until(lambda: pool.snapshot()["last_error"])
    holder.conn.execute("SELECT 1")
    holder.give_back()
    assert waiter.got()
    frail_proxy.allow()
    waiter.give_back()


def test_a_notice_for_nobody_does_not_cost_an_idle_connection(
    make_pool: MakePool, cluster: Server
) -> None:
    pool = make_pool(max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        before = pid(conn)
        conn.execute("LISTEN somebody")
    for _ in range(3):
        cluster.execute("NOTIFY somebody, 'hello'")
    assert served(pool) == before


def test_a_ping_that_nobody_answers_takes_no_longer_than_its_borrower_has(
    make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, ping_timeout=600)
    pool = make_pool(proxy.dsn(connect_timeout=60), max_size=1, ping_after=0)
    until_known(pool)  # or the answer to what it asks is as good as that to a ping
    (slot,) = inside.idle(pool)
    until(lambda: inside.vets_at(slot) < inside.clock(pool)())
    proxy.blackhole()
    borrower = Borrower(pool, timeout=0.2)
    assert isinstance(borrower.failed(), PoolTimeout)


def test_a_ping_that_nobody_answers_ends_in_a_new_connection(
    make_pool: MakePool, proxy: Proxy, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, ping_timeout=0.5)
    where = [proxy.dsn()]
    pool = make_pool(lambda: where[0], max_size=2, ping_after=0)
    before = pids_of(pool, 2)
    slots, clock = inside.idle(pool), inside.clock(pool)
    until(lambda: all(inside.vets_at(slot) < clock() for slot in slots))
    proxy.blackhole()
    where[0] = dsn
    assert served(pool) not in {0, *before}
    assert pool.get_stats()["connections_lost"] == 1


@pytest.mark.stress
def test_what_cannot_be_cancelled_does_not_keep_its_place_for_ever(
    make_pool: MakePool, proxy: Proxy, dsn: str
) -> None:
    where = [proxy.dsn()]
    pool = make_pool(lambda: where[0], max_size=1)
    conn = pool.getconn()
    conn.pgconn.send_query(b"SELECT pg_sleep(600)")
    proxy.blackhole()
    where[0] = dsn
    pool.putconn(conn)
    assert served(pool)


def test_those_who_lose_their_loan_to_the_server_are_told_and_the_pool_goes_on(
    make_pool: MakePool, cluster: Server, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=3)
    conns = [pool.getconn() for _ in range(3)]
    for conn in conns:
        cluster.terminate(pid(conn))
    for conn in conns:
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        pool.putconn(conn)
    assert len(use_all(pool, 3)) == 3
    assert backends() == 3
