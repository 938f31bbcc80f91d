"""What is done to a running pool by hand: close what is idle, cancel a statement."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from django_connpool import ConnectionPool, PoolClosed
from tests import inside
from tests.proxy import Proxy

from .helpers import until


def test_close_idle_keeps_min_size_and_what_is_on_loan(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=4) as pool:
        lent = [pool.getconn() for _ in range(4)]
        for conn in lent[:3]:
            pool.putconn(conn)
        pool.close_idle()
        until(lambda: pool.snapshot()["size"] == 1)
        assert [loan["backend_pid"] for loan in pool.snapshot()["loans"]] == [
            lent[3].info.backend_pid
        ]
        pool.putconn(lent[3])
        pool.close_idle()
        assert pool.snapshot()["idle"] == 1


def test_close_idle_closes_the_longest_idle_first(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=3) as pool:
        lent = [pool.getconn() for _ in range(3)]
        for conn in lent:
            pool.putconn(conn)
        pool.close_idle()
        until(lambda: pool.snapshot()["size"] == 1)
        assert pool.snapshot()["backends"] == [lent[-1].info.backend_pid]


def test_a_signal_handler_may_close_what_is_idle(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=3) as pool:
        pool.putconn(pool.getconn())
        with inside.lock(pool):
            pool.close_idle()
        until(lambda: pool.snapshot()["size"] == 0)


def test_a_closed_pool_has_nothing_to_close(dsn: str) -> None:
    pool: ConnectionPool[Any] = ConnectionPool(dsn, min_size=0, max_size=1)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.close_idle()


def busy(pool: ConnectionPool[Any]) -> tuple[threading.Thread, list[Any], dict[str, Any]]:
    """A borrower in the middle of a statement, what it gets, and its loan."""
    got: list[Any] = []

    def work() -> None:
        with pool.connection() as conn:
            conn.autocommit = True
            try:
                got.append(conn.execute("SELECT pg_sleep(300)"))
            except psycopg.Error as error:
                got.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: [one["transaction"] for one in pool.snapshot()["loans"]] == ["ACTIVE"])
    loan = pool.snapshot()["loans"][0]
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    with psycopg.connect(
        str(pool.conninfo), autocommit=True
    ) as looker:  # a request in vain is lost
        until(lambda: looker.execute(query, [loan["backend_pid"]]).fetchone() == (1,))
    return thread, got, loan


def test_cancel_ends_a_statement_of_a_connection_that_nobody_gets_after_it(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=1) as pool:
        thread, got, loan = busy(pool)
        assert pool.cancel(loan["backend_pid"], loan["number"]) is True
        thread.join(60)
        assert isinstance(got[0], QueryCanceled)
        with pool.connection() as conn:
            assert conn.info.backend_pid != loan["backend_pid"]  # a late request may still come


def test_a_later_loan_of_the_same_connection_is_left_alone(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=1) as pool:
        with pool.connection() as conn:
            number = pool.snapshot()["loans"][0]["number"]
            assert pool.cancel(conn.info.backend_pid, number) is False
        thread, _, loan = busy(pool)
        with pytest.raises(psycopg.ProgrammingError, match="is over"):
            pool.cancel(loan["backend_pid"], number)
        assert thread.is_alive()
        assert pool.cancel(loan["backend_pid"])
        thread.join(60)


def test_what_is_not_on_loan_cannot_be_cancelled(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=1) as pool:
        with pool.connection() as conn:
            backend = conn.info.backend_pid
        with pytest.raises(psycopg.ProgrammingError, match=f"no loan of backend {backend}"):
            pool.cancel(backend)


@pytest.mark.parametrize(("network", "seconds"), [("refuse", 30), ("blackhole", 0.2)])
def test_a_server_that_does_not_take_the_request_is_an_error_in_time(
    proxy: Proxy, network: str, seconds: float
) -> None:
    with ConnectionPool(proxy.dsn(), min_size=0, max_size=1) as pool:
        thread, _, loan = busy(pool)
        getattr(proxy, network)()
        with pytest.raises(psycopg.OperationalError):
            pool.cancel(loan["backend_pid"], timeout=seconds)
        proxy.allow()
        assert pool.cancel(loan["backend_pid"])
        thread.join(60)
