"""The signal of who has stood in line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_connpool import ConnectionPool, signals
from tests import inside
from tests.databases import DEADLINE, Databases, value
from tests.testproject.processes import wait_until

Listen = Callable[[Callable[..., Any]], None]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """A function that connects a receiver for the time of the test."""
    connected: list[Callable[..., Any]] = []

    def connect(receiver: Callable[..., Any]) -> None:
        signals.connection_waited.connect(receiver)
        connected.append(receiver)

    yield connect
    for receiver in connected:
        signals.connection_waited.disconnect(receiver)


@pytest.fixture
def spare(databases: Databases) -> Any:
    wrapper = databases.add(pool={"name": "small", "max_size": 1, "release": "request"})
    value(wrapper, "SELECT 1")
    wrapper.close()
    return wrapper


def in_line(wrapper: Any) -> None:
    """Borrow when another thread has the only connection, and give back."""
    pool, ready = wrapper.pool, threading.Event()

    def hold() -> None:
        conn = pool.getconn()
        ready.set()
        wait_until(lambda: pool.snapshot()["waiting"] == 1, "somebody stands in line")
        pool.putconn(conn)

    holder = threading.Thread(target=hold)
    holder.start()
    assert ready.wait(DEADLINE)
    value(wrapper, "SELECT 1")
    wrapper.close()
    holder.join(DEADLINE)


def test_who_has_stood_in_line_says_so_in_its_own_thread(spare: Any, listen: Listen) -> None:
    told: list[dict[str, Any]] = []

    def note(**kwargs: Any) -> None:
        told.append({**kwargs, "thread": threading.get_ident()})

    listen(note)
    in_line(spare)
    ((one),) = told
    assert one.pop("waited") > 0
    assert one.pop("signal") is signals.connection_waited
    assert one == {
        "sender": ConnectionPool,
        "pool": spare.pool,
        "name": "small",
        "thread": threading.get_ident(),
    }


def test_who_is_served_at_once_says_nothing(spare: Any, listen: Listen) -> None:
    listen(lambda **kwargs: pytest.fail("it waited"))
    value(spare, "SELECT 1")
    assert spare.pool.get_stats()["requests_queued"] == 1  # by the first, before anybody listened


def test_no_lock_is_held_meanwhile(spare: Any, listen: Listen) -> None:
    seen: list[bool] = []

    def note(pool: Any, **kwargs: Any) -> None:
        seen.append(inside.is_locked(pool))

    listen(note)
    in_line(spare)
    assert seen == [False]


def test_a_receiver_that_raises_hurts_nobody(
    spare: Any, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver is broken")

    listen(fail)
    in_line(spare)
    assert "a receiver is broken" in caplog.text
    assert spare.pool.snapshot()["in_use"] == 0


def test_a_receiver_that_is_interrupted_leaves_no_connection_behind(
    spare: Any, listen: Listen
) -> None:
    def interrupt(**kwargs: Any) -> None:
        raise KeyboardInterrupt

    listen(interrupt)
    with pytest.raises(KeyboardInterrupt):
        in_line(spare)
    wait_until(lambda: spare.pool.snapshot()["in_use"] == 0, "it is back")
    assert value(spare, "SELECT 1") == 1
