"""A session whose set-up failed is lent to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections
from django.db.backends.signals import connection_created

from django_connpool.backends.postgresql import base as plain
from tests.cluster import Server
from tests.databases import Databases, connected, in_hand, in_thread, on_loan, pid, value
from tests.testproject.processes import wait_until

MODES = ["request", "transaction"]
Errors = list[BaseException]


def set_up(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")  # after which a connection could go back
        cursor.execute("SET app.tenant = 'set up'")


def is_set_up(wrapper: Any) -> bool:
    return bool(value(wrapper, "SELECT current_setting('app.tenant', true) = 'set up'"))


def is_served(wrapper: Any) -> bool:
    """After an attempt to connect that has failed others fail with it, for a moment."""
    try:
        return bool(pid(wrapper))
    except RuntimeError:
        return False


@pytest.fixture
def receive() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    """A function that has a receiver hear of each new connection of the alias `spare`."""
    receivers = []

    def connect(receiver: Callable[[Any], None]) -> None:
        def received(connection: Any, **kwargs: Any) -> None:
            if connection.alias == "spare":
                receiver(connection)

        receivers.append(received)
        connection_created.connect(received)

    yield connect
    for received in receivers:
        connection_created.disconnect(received)


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize("error", [RuntimeError, DatabaseError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_whose_receiver_fails_is_closed_and_the_next_is_tried_anew(
    databases: Databases,
    cluster: Server,
    receive: Callable[[Callable[[Any], None]], None],
    error: type[BaseException],
    when: str,
    release: str,
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": release, "timeout": 20})
    failed: list[int] = []

    def receiver(connection: Any) -> None:
        if when == "after":
            set_up(connection)
        if len(failed) < 2:
            failed.append(connection.connection.info.backend_pid)
            raise error("not today")
        set_up(connection)

    receive(receiver)
    for _ in range(2):
        with pytest.raises(error, match="not today"):
            pid(wrapper)
        assert in_hand(wrapper) is None
        assert on_loan(wrapper) == 0
    assert in_thread(lambda: is_set_up(connections["spare"]))
    assert is_set_up(wrapper)
    assert len({*failed, pid(wrapper)}) == 3


def test_likewise_where_a_receiver_comes_late(
    databases: Databases, receive: Callable[[Callable[[Any], None]], None]
) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    first = pid(wrapper)
    wrapper.close()
    failures: Errors = [RuntimeError("not today")]

    def receiver(connection: Any) -> None:
        if failures:
            raise failures.pop()
        set_up(connection)

    receive(receiver)
    with pytest.raises(RuntimeError):
        pid(wrapper)
    assert is_set_up(wrapper)
    assert pid(wrapper) != first


def test_nobody_borrows_a_connection_while_it_is_set_up(
    databases: Databases, receive: Callable[[Callable[[Any], None]], None]
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": "transaction"})
    seen = []

    def receiver(connection: Any) -> None:
        for _ in range(2):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            seen.append(connection.connection is not None and on_loan(connection))

    receive(receiver)
    pid(wrapper)
    assert seen == [1, 1]
    assert in_hand(wrapper) is None
    assert on_loan(wrapper) == 0


@pytest.mark.parametrize("name", ["init_connection_state", "get_new_connection", "set_autocommit"])
def test_a_connection_that_a_wrapper_fails_to_open_is_closed(
    databases: Databases, cluster: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failures: Errors = [RuntimeError("not today")]

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = getattr(super(theirs, self), name)(*args, **kwargs)
        if failures:
            raise failures.pop()
        return result

    theirs = type("DatabaseWrapper", (plain.DatabaseWrapper,), {name: override})
    monkeypatch.setattr(plain, "DatabaseWrapper", theirs)
    wrapper = databases.add(pool={"max_size": 1, "timeout": 20})
    with pytest.raises(RuntimeError, match="not today") as caught:
        pid(wrapper)
    assert connected(cluster, wrapper) == 0
    del caught
    wait_until(lambda: is_served(wrapper), "another is tried")
    assert connected(cluster, wrapper) == 1


def test_configure_likewise(databases: Databases, cluster: Server) -> None:
    failures: Errors = [RuntimeError("not today")]

    def configure(connection: psycopg.Connection) -> None:
        if failures:
            raise failures.pop()
        connection.execute("SET app.tenant = 'set up'")

    wrapper = databases.add(pool={"max_size": 1, "timeout": 20, "configure": configure})
    with pytest.raises(RuntimeError, match="not today"):
        pid(wrapper)
    assert connected(cluster, wrapper) == 0
    wait_until(lambda: is_served(wrapper), "another is tried")
    assert is_set_up(wrapper)
