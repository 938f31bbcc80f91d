"""`outage_patience`: a server that has just gone is waited for, one that says no is not."""

from __future__ import annotations

import socket
from typing import Any

import psycopg
import pytest

from django_connpool import PoolTimeout
from tests import inside
from tests.cluster import Cluster, Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.fake_server import FakeServer
from tests.pool.real.helpers import DEADLINE, Borrower, until, until_waiting

GOING = ("57P03", "the database system is shutting down")


@pytest.fixture(scope="module")
def guarded() -> Any:
    """A server that asks for a password."""
    with Cluster(auth="scram-sha-256") as server:
        yield server


def test_a_server_that_has_just_gone_is_waited_for(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    fake_server.refusal = GOING
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], outage_patience=DEADLINE)
    borrowers = [Borrower(pool) for _ in range(3)]
    until(lambda: fake_server.attempts >= 3)
    until_waiting(pool, 3)
    where[0] = dsn
    for borrower in borrowers:
        borrower.got()
    for borrower in borrowers:
        borrower.give_back()
    assert pool.get_stats()["requests_errors"] == 0


def test_the_default_is_three_seconds(make_pool: MakePool) -> None:
    assert make_pool().outage_patience == 3.0


def test_when_patience_ends_those_in_line_are_told_what_the_server_said(
    make_pool: MakePool, fake_server: FakeServer
) -> None:
    fake_server.refusal = GOING
    pool = make_pool(fake_server.dsn(), outage_patience=0.3)
    borrowers = [Borrower(pool, timeout=600) for _ in range(3)]
    for borrower in borrowers:
        error = borrower.failed()
        assert not isinstance(error, PoolTimeout)
        assert "is shutting down" in str(error)
    assert inside.age_of_outage(pool) >= 0.3


def test_an_old_outage_is_told_at_once_while_one_attempt_goes_on(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    fake_server.refusal = GOING
    where = [fake_server.dsn()]
    pool = make_pool(lambda: where[0], outage_patience=0.1)
    Borrower(pool, timeout=600).failed()
    before = pool.get_stats()["requests_queued"]
    told = 0
    while not told:  # or its turn has just come to cause the next attempt
        with pytest.raises(psycopg.OperationalError, match="is shutting down"):
            pool.getconn(timeout=600)
        told = pool.get_stats()["requests_queued"] == before
        before = pool.get_stats()["requests_queued"]
    where[0] = dsn
    until(lambda: not pool.snapshot()["last_error"] or Borrower(pool, timeout=1).conn)


def test_one_attempt_is_in_flight_however_many_wait(
    make_pool: MakePool, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, hanging=600)
    fake_server.refusal = GOING
    pool = make_pool(
        fake_server.dsn(), kwargs={"connect_timeout": 60}, max_size=8, outage_patience=600
    )
    first = Borrower(pool)
    until(lambda: fake_server.attempts >= 2)
    fake_server.refusal = None
    others = [Borrower(pool) for _ in range(8)]
    until_waiting(pool, 9)
    until(fake_server.has_unanswered)
    for _ in range(5):
        inside.tick(pool)
    assert pool.snapshot()["opening"] == 1
    pool.close()
    for borrower in (first, *others):
        borrower.failed()


def test_who_hangs_when_patience_ends_is_no_reason_to_wait_on(
    make_pool: MakePool, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, hanging=0.1)
    fake_server.refusal = GOING
    pool = make_pool(fake_server.dsn(), kwargs={"connect_timeout": 600}, outage_patience=1)
    borrower = Borrower(pool, timeout=600)
    until(lambda: fake_server.attempts)
    fake_server.refusal = None
    assert "is shutting down" in str(borrower.failed())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"password": None}, "no password supplied"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"user": "nobody"}, "password authentication failed"),
        ({"sslmode": "require"}, "server does not support SSL"),
        ({"options": "-c no_such_setting=1"}, "unrecognized configuration parameter"),
    ],
)
def test_what_time_does_not_heal_is_said_at_once(
    make_pool: MakePool, guarded: Server, changes: dict[str, Any], said: str
) -> None:
    pool = make_pool(guarded.dsn(**changes), outage_patience=600)
    with pytest.raises(psycopg.OperationalError, match=said) as caught:
        pool.getconn(timeout=DEADLINE)
    assert not isinstance(caught.value, PoolTimeout)


def test_who_may_not_come_in_is_told_at_once(make_pool: MakePool, fake_server: FakeServer) -> None:
    fake_server.refusal = ("28000", 'no pg_hba.conf entry for host "10.1.2.3", user "shop"')
    pool = make_pool(fake_server.dsn(), outage_patience=600)
    with pytest.raises(psycopg.OperationalError, match="pg_hba"):
        pool.getconn(timeout=DEADLINE)


def test_what_a_callback_raises_is_said_at_once(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        raise LookupError("no such secret")

    pool = make_pool(configure=configure, outage_patience=600)
    with pytest.raises(LookupError, match="no such secret"):
        pool.getconn(timeout=DEADLINE)


def test_no_patience_is_as_it_was(make_pool: MakePool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = make_pool(f"host=127.0.0.1 port={unused.getsockname()[1]}", outage_patience=0)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            pool.getconn(timeout=600)
    assert pool.get_stats()["connections_errors"] == 1
