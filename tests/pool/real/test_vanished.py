"""A host that has vanished, or a server that is stopped: nothing hangs for long."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.cluster import Cluster
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import DEADLINE, pid, until
from tests.proxy import Proxy

Logged = Callable[[str], list[str]]

linux = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="asks the system for TCP_INFO")


@pytest.fixture
def stopped(throwaway_cluster: Cluster) -> Iterator[Callable[[], None]]:
    """A function that stops every process of a server, until the test ends."""
    pids = [int((throwaway_cluster.folder / "data" / "postmaster.pid").read_text().split()[0])]

    def stop() -> None:
        pids.extend(pid for (pid,) in throwaway_cluster.execute("SELECT pid FROM pg_stat_activity"))
        for each in pids:
            try_kill(each, signal.SIGSTOP)

    yield stop
    for each in pids:
        try_kill(each, signal.SIGCONT)


def try_kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Statement:
    """A statement in a thread of its own."""

    def __init__(self, conn: Any, query: str) -> None:
        self.error: BaseException | None = None
        self.ended = False
        self.conn, self.query = conn, query
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.conn.execute(self.query)
        except BaseException as error:
            self.error = error
        self.ended = True


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_the_network_is_given_up_in_half_a_minute(make_pool: MakePool) -> None:
    with make_pool().connection() as conn, socket.socket(fileno=os.dup(conn.fileno())) as end:
        options = [
            end.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        ]
    unacknowledged, idle, interval = options
    assert unacknowledged <= 30_000
    assert idle + interval <= 30


@linux
@pytest.mark.parametrize("query", ["SELECT 1", "SELECT pg_sleep(600)"])
def test_a_statement_on_a_vanished_host_ends_soon_after_its_limit(
    make_pool: MakePool, proxy: Proxy, logged: Logged, query: str
) -> None:
    pool = make_pool(proxy.dsn(), command_timeout=0.3, max_size=2)
    conn, other = pool.getconn(), pool.getconn()
    pool.putconn(other)
    proxy.blackhole()
    statement = Statement(conn, query)
    until(lambda: statement.ended)
    assert isinstance(statement.error, psycopg.OperationalError)
    assert not isinstance(statement.error, psycopg.errors.QueryCanceled)
    until(lambda: logged("answers nobody"))
    assert pool.snapshot()["idle"] == 0  # what went with it
    pool.putconn(conn)
    proxy.allow()
    with pool.connection() as conn:
        conn.execute("SELECT 1")


@linux
@pytest.mark.stress
def test_a_statement_on_a_server_that_is_stopped_ends_soon_after_its_limit(
    make_pool: MakePool, throwaway_cluster: Cluster, stopped: Callable[[], None]
) -> None:
    pool = make_pool(throwaway_cluster.dsn(), command_timeout=0.3)
    conn = pool.getconn()
    stopped()
    statement = Statement(conn, "SELECT 1")
    until(lambda: statement.ended)
    assert isinstance(statement.error, psycopg.OperationalError)


@linux
def test_a_borrower_who_has_raised_the_limit_is_let_be(
    make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(proxy.dsn(), command_timeout=0.2, max_size=1)
    conn = pool.getconn()
    before = proxy.accepted
    conn.execute("SET LOCAL statement_timeout = 0")
    statement = Statement(conn, "SELECT pg_sleep(600)")
    until(lambda: proxy.accepted >= before + 2)  # asked twice whether it is alive
    assert not statement.ended
    conn.cancel_safe() if psycopg.capabilities.has_cancel_safe() else conn.cancel()
    until(lambda: statement.ended)
    assert isinstance(statement.error, psycopg.errors.QueryCanceled)
    conn.rollback()
    assert pid(conn)
    pool.putconn(conn)


@pytest.mark.stress
def test_a_transaction_left_open_on_a_vanished_host_is_given_back_in_bounded_time(
    make_pool: MakePool, proxy: Proxy, logged: Logged
) -> None:
    pool = make_pool(proxy.dsn(), max_size=1)
    conn = pool.getconn()
    conn.execute("SELECT 1")
    proxy.blackhole()
    thread = threading.Thread(target=pool.putconn, args=[conn], daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert logged("could not be rolled back")
    proxy.allow()
    with pool.connection() as conn:
        conn.execute("SELECT 1")


def test_connecting_ends_by_itself_without_django_too(make_pool: MakePool) -> None:
    with make_pool().connection() as conn:
        assert int(conn.info.get_parameters()["connect_timeout"]) <= DEADLINE
