"""What goes wrong is told at once, as an error of Django's with psycopg's as its cause."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connections

from django_connpool import PoolTimeout, TooManyRequests
from tests.cluster import Cluster, Server
from tests.databases import Databases, in_thread, in_threads, on_loan, pid, value


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that asks for a password."""
    with Cluster(auth="scram-sha-256") as server:
        yield server


def fails(wrapper: Any, match: str) -> OperationalError:
    """The error of a query, which must not have had to wait for the pool's timeout."""
    with pytest.raises(OperationalError, match=match) as caught:
        pid(wrapper)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert not isinstance(caught.value.__cause__, PoolTimeout)
    assert on_loan(wrapper) == 0
    return caught.value


def test_a_wrong_password_is_named(databases: Databases, guarded: Server) -> None:
    wrapper = databases.add(server=guarded, PASSWORD="wrong")
    for _ in range(3):
        fails(wrapper, "password authentication failed")


def test_an_unknown_database_is_named(databases: Databases) -> None:
    fails(databases.add(NAME="connpool_nowhere"), '"connpool_nowhere" does not exist')


def test_no_server_is_said_at_once(databases: Databases) -> None:
    wrapper = databases.add(HOST="127.0.0.1", PORT=1, pool={"outage_patience": 0.1})
    fails(wrapper, "Connection refused")


def test_each_of_many_borrowers_is_told_that_there_is_no_server(databases: Databases) -> None:
    wrapper = databases.add(HOST="127.0.0.1", PORT=1, pool={"max_size": 2, "outage_patience": 0.1})

    def work() -> str:
        try:
            pid(connections[wrapper.alias])
        except OperationalError as error:
            return str(error)
        return ""

    assert all("Connection refused" in said for said in in_threads([work] * 8))


def test_the_server_is_asked_again_when_it_is_back(
    databases: Databases, throwaway_cluster: Cluster
) -> None:
    wrapper = databases.add(server=throwaway_cluster, pool={"outage_patience": 0.1})
    pid(wrapper)
    wrapper.close()
    throwaway_cluster.stop()
    with pytest.raises(OperationalError):
        pid(wrapper)
    throwaway_cluster.start()
    deadline = threading.Event()

    def works() -> bool:
        try:
            return pid(wrapper) > 0
        except OperationalError:
            return False

    while not works():
        assert not deadline.wait(0.05) and wrapper.pool.get_stats()["connections_errors"] < 50
    wrapper.close()
    wrapper.close_pool()


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"max_sise": 5}, "max_size"),
        ({"min_size": 5, "max_size": 2}, "max_size.*min_size"),
        ({"timeout": "soon"}, "timeout"),
        ({"max_size": 0}, "max_size"),
        ("perhaps", "True, False or a dictionary"),
    ],
)
def test_an_impossible_option_is_named_by_every_query(
    databases: Databases, pool: Any, message: str
) -> None:
    wrapper = databases.add(pool=pool)
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=message):
            value(wrapper, "SELECT 1")


def test_an_option_that_libpq_does_not_know_is_said_at_once(databases: Databases) -> None:
    wrapper = databases.add(options={"max_sise": 5})
    with pytest.raises(Exception, match="max_sise"):
        pid(wrapper)


def test_an_impossible_isolation_level_reaches_the_borrower(databases: Databases) -> None:
    wrapper = databases.add(options={"isolation_level": 99})
    with pytest.raises(ImproperlyConfigured, match="isolation level"):
        pid(wrapper)


def test_a_role_that_does_not_exist_reaches_the_borrower(databases: Databases) -> None:
    wrapper = databases.add(options={"assume_role": "connpool_nobody"})
    with pytest.raises(Exception, match="connpool_nobody"):
        pid(wrapper)
    assert wrapper.pool.snapshot()["size"] == 0


def test_conn_max_age_changes_nothing(databases: Databases) -> None:
    wrapper = databases.add(CONN_MAX_AGE=600)
    pid(wrapper)
    wrapper.close_if_unusable_or_obsolete()

    assert on_loan(wrapper) == 0


def test_the_checks_speak_up_where_the_pool_is_misconfigured(
    databases: Databases, capsys: pytest.CaptureFixture[str]
) -> None:
    databases.add(pool={"max_size": 3}, CONN_MAX_AGE=600)
    call_command("check", "--tag", "connpool")

    assert "django_connpool.W001" in capsys.readouterr().err


def test_a_timeout_is_an_operational_error_that_names_the_holder(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": "request"})
    pid(wrapper)
    wrapper.pool.timeout = 0.1

    def work() -> OperationalError:
        with pytest.raises(OperationalError, match="On loan to 'MainThread'") as caught:
            pid(connections[wrapper.alias])
        return caught.value

    assert isinstance(in_thread(work).__cause__, PoolTimeout)


def test_too_many_waiters_are_refused_at_once(databases: Databases) -> None:
    wrapper = databases.add(
        pool={"max_size": 1, "max_waiting": 1, "timeout": 15, "release": "request"}
    )
    pid(wrapper)
    first = threading.Thread(target=lambda: pid(connections[wrapper.alias]))
    first.start()
    while not wrapper.pool.snapshot()["waiting"]:
        threading.Event().wait(0.01)

    def work() -> BaseException | None:
        with pytest.raises(OperationalError, match=r"max_waiting \(1\)") as caught:
            pid(connections[wrapper.alias])
        return caught.value.__cause__

    assert isinstance(in_thread(work), TooManyRequests)
    wrapper.close()
    first.join(15)
    assert not first.is_alive()
