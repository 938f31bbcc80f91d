from __future__ import annotations

import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from django_connpool import PoolClosed, PoolTimeout
from tests import inside
from tests.cluster import Cluster, Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.fake_server import FakeServer
from tests.pool.real.helpers import (
    DEADLINE,
    LOGGER,
    Borrower,
    holder_of,
    pid,
    served,
    until,
    until_idle,
    until_waiting,
)

Logged = Callable[[str], list[str]]
STARTING = ("57P03", "the database system is starting up")
FULL = ("53300", "sorry, too many clients already")
NO_ENTRY = ("28000", "no pg_hba.conf entry for you")


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Cluster]:
    with Cluster(auth="scram-sha-256", max_connections=10, superuser_reserved_connections=0) as it:
        yield it


@pytest.fixture
def scram_cluster(small_cluster: Cluster) -> Cluster:
    """A server for ten clients, without any that the test before has just sent home."""

    def is_empty() -> bool:
        with suppress(psycopg.OperationalError):
            return small_cluster.backends() == 0
        return False

    until(is_empty)
    return small_cluster


def refused_at_once(pool: Any) -> str:
    """Borrow with a long timeout; return the text of what must not be a PoolTimeout."""
    with pytest.raises(psycopg.OperationalError) as caught:
        pool.getconn(timeout=600)
    assert not isinstance(caught.value, PoolTimeout)
    return str(caught.value)


def test_a_wrong_password_reaches_the_borrower_at_once(
    make_pool: MakePool, scram_cluster: Cluster
) -> None:
    pool = make_pool(scram_cluster.dsn(password="wrong"))
    assert "password authentication failed" in refused_at_once(pool)


def test_an_unknown_database_reaches_the_borrower_at_once(
    make_pool: MakePool, cluster: Server
) -> None:
    pool = make_pool(cluster.dsn(dbname="nowhere"))
    assert 'database "nowhere" does not exist' in refused_at_once(pool)


def test_a_port_where_nobody_listens_reaches_the_borrower_at_once(make_pool: MakePool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        conninfo = f"host=127.0.0.1 port={unused.getsockname()[1]}"
        pool = make_pool(conninfo, outage_patience=0.1)
        assert "refused" in refused_at_once(pool)


def test_a_name_that_does_not_resolve_reaches_the_borrower_at_once(make_pool: MakePool) -> None:
    pool = make_pool("host=nowhere.invalid", outage_patience=0.1)
    assert "nowhere.invalid" in refused_at_once(pool)


def test_all_in_line_are_answered_by_one_refusal(
    make_pool: MakePool, fake_server: FakeServer
) -> None:
    pool = make_pool(fake_server.dsn(), kwargs={"connect_timeout": 60}, max_connecting=1)
    waiters = [Borrower(pool, timeout=600) for _ in range(10)]
    until_waiting(pool, 10)
    until(fake_server.has_unanswered)
    fake_server.refusal = NO_ENTRY
    fake_server.answer_all()
    errors = [waiter.failed() for waiter in waiters]
    assert all("no pg_hba.conf entry for you" in str(error) for error in errors)
    assert len(set(map(id, errors))) == 10
    assert pool.get_stats()["connections_errors"] == 1


def test_during_back_off_borrowers_are_refused_without_another_attempt(
    make_pool: MakePool, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, first_retry=600, last_retry=600)
    fake_server.refusal = NO_ENTRY
    pool = make_pool(fake_server.dsn())
    for _ in range(20):
        assert "no pg_hba.conf entry for you" in refused_at_once(pool)
    assert fake_server.attempts == 1
    assert "no pg_hba.conf entry for you" in pool.snapshot()["last_error"]


def test_who_asks_after_a_long_idle_outage_gets_an_attempt_soon(
    make_pool: MakePool, fake_server: FakeServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, first_retry=600, last_retry=0.1, lazy_retry=600)
    fake_server.refusal = NO_ENTRY
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], min_size=1)
    until(lambda: fake_server.attempts == 2)
    until(lambda: inside.is_in_outage(pool) and inside.retries_at(pool) > inside.clock(pool)() + 60)
    where[0] = dsn
    assert until(lambda: served(pool))


@pytest.mark.stress
def test_a_server_that_is_starting_up_is_waited_for(
    make_pool: MakePool, fake_server: FakeServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, hanging=600)
    probes, together = iter([True]), threading.Barrier(3, timeout=DEADLINE / 2)

    def configure(conn: Any) -> None:
        if not next(probes, False):
            together.wait()

    fake_server.refusal = STARTING
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], configure=configure)
    waiters = [Borrower(pool) for _ in range(4)]
    until(lambda: fake_server.attempts >= 2)
    until_waiting(pool, 4)
    where[0] = dsn
    # After the first, which finds the server up, the others are opened side by side.
    assert len({waiter.got() for waiter in waiters}) == 4
    for waiter in waiters:
        waiter.give_back()


def test_a_server_that_never_gets_up_is_named_by_the_timeout(
    make_pool: MakePool, fake_server: FakeServer
) -> None:
    fake_server.refusal = STARTING
    pool = make_pool(fake_server.dsn())
    Borrower(pool)
    until(lambda: pool.snapshot()["last_error"])
    with pytest.raises(PoolTimeout, match="is starting up") as caught:
        pool.getconn(timeout=0.05)
    assert "is starting up" in str(caught.value.__cause__)


def test_a_full_server_refuses_at_once_who_has_nothing_on_loan_to_wait_for(
    make_pool: MakePool, scram_cluster: Cluster
) -> None:
    others = [psycopg.connect(scram_cluster.dsn()) for _ in range(10)]
    pool = make_pool(scram_cluster.dsn(), outage_patience=0.1)
    assert "too many clients" in refused_at_once(pool)
    others.pop().close()
    assert until(lambda: served(pool))
    for other in others:
        other.close()


def test_a_full_server_is_waited_for_while_something_is_on_loan(
    make_pool: MakePool, scram_cluster: Cluster, logged: Logged
) -> None:
    pool = make_pool(scram_cluster.dsn())
    holder = holder_of(pool)
    others = [psycopg.connect(scram_cluster.dsn()) for _ in range(9)]
    first, second = Borrower(pool), Borrower(pool)
    until(lambda: logged("too many clients"))
    until_waiting(pool, 2)
    others.pop().close()
    new = until(lambda: first.conn or second.conn)
    assert pid(new) != holder.got()
    holder.give_back()
    for waiter in (first, second):
        waiter.got()
    for waiter in (first, second):
        waiter.give_back()
    for other in others:
        other.close()


def test_when_the_last_loan_is_lost_in_an_outage_those_in_line_are_told_at_once(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    fake_server.refusal = NO_ENTRY
    where = [dsn]
    pool = make_pool(lambda: where[0])
    holder = holder_of(pool)
    where[0] = fake_server.dsn()
    waiter = Borrower(pool, timeout=600)
    until(lambda: fake_server.attempts)
    until_waiting(pool, 1)
    holder.conn.close()
    holder.give_back()
    assert "no pg_hba.conf entry for you" in str(waiter.failed())


def test_a_pool_repairs_itself_when_the_server_is_back(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    fake_server.refusal = FULL
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], min_size=3)
    until(lambda: fake_server.attempts >= 2)
    where[0] = dsn
    until_idle(pool, 3)
    assert pool.snapshot()["last_error"] is None


def test_growth_that_failed_does_not_stop_later_growth(
    make_pool: MakePool, fake_server: FakeServer, dsn: str, cluster: Server, app: str
) -> None:
    where = [dsn]
    pool = make_pool(lambda: f"{where[0]} application_name={app}", min_size=1)
    holder = holder_of(pool)
    fake_server.refusal, where[0] = FULL, fake_server.dsn()
    waiter = Borrower(pool)
    until(lambda: fake_server.attempts)
    assert waiter.error is None
    where[0] = dsn
    assert waiter.got() != pid(holder.conn)
    for borrower in (holder, waiter):
        borrower.give_back()
    cluster.terminate(application_name=app)
    assert served(pool)
    until_idle(pool, 1)


@pytest.mark.stress
def test_a_probe_that_hangs_does_not_stand_for_those_who_come_later(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    fake_server.refusal = NO_ENTRY
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], kwargs={"connect_timeout": 60}, min_size=1)
    until(lambda: pool.snapshot()["last_error"])
    fake_server.refusal = None
    attempts = fake_server.attempts
    until(lambda: fake_server.attempts > attempts)
    where[0] = dsn
    assert until(lambda: served(pool))


@pytest.mark.parametrize("state", ["probing", "closed", "suspended"])
def test_an_outage_costs_no_time_when_there_is_nothing_to_do_about_it(
    make_pool: MakePool, fake_server: FakeServer, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, last_retry=0.01)
    fake_server.refusal = NO_ENTRY
    pool = make_pool(fake_server.dsn(), kwargs={"connect_timeout": 60}, min_size=1)
    until(lambda: pool.snapshot()["last_error"])
    if state == "probing":
        fake_server.refusal = None
        until(lambda: pool.snapshot()["opening"])
    elif state == "closed":
        pool.close()
    else:
        pool.suspend()
    ticks = itertools.count()

    def counted(tick: Callable[[], float]) -> float:
        next(ticks)
        return tick()

    inside.ticking_by(pool, counted)
    other = make_pool(max_idle=0.3)
    assert served(other)
    until_idle(other, 0)
    assert next(ticks) < 20


def test_a_log_handler_may_borrow(make_pool: MakePool, fake_server: FakeServer, dsn: str) -> None:
    # One is kept, one is lost. On a busy machine what the handler borrows is told of, too: it then
    # knows that connection until it has told so by another, the third.
    logs = make_pool(dsn, leak_after=0.05, max_size=3)
    lines: list[str] = []

    class InTheDatabase(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # What is reported while the test ends finds the pool closed.
            with suppress(PoolClosed), logs.connection(timeout=DEADLINE / 2) as conn:
                conn.execute("SELECT %s", [record.getMessage()])
            lines.append(record.getMessage())

    handler = InTheDatabase()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        holder = holder_of(logs)
        until(lambda: any("on loan for" in line for line in lines))
        holder.give_back()
        holder.conn = None  # which may be lost by its next borrower
        until(lambda: any("was given back after" in line for line in lines))
        kept = Borrower(logs)
        kept.got()
        # Connections come back sooner than new ones open, so at first it is not worth one more.
        inside.believes(logs, hold=0.0, connect=0.1)
        logs.getconn()
        until(lambda: any("never given back" in line for line in lines))
        kept.give_back()
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
