"""What an interrupt leaves half done is brought to rest. Each rule by itself, and quickly.

`test_interrupts.py` finds such moments by striking at every line; these need no striking.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from django_connpool import ConnectionPool
from tests import inside
from tests.pool.real.helpers import until, until_idle, until_waiting

from .fake import FakeServer, working_pool


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def pool(server: FakeServer) -> Iterator[ConnectionPool[Any]]:
    with working_pool(server, max_size=1) as pool:
        pool.putconn(pool.getconn())
        yield pool


def test_a_loan_that_another_thread_uses_outlives_the_thread_that_borrowed_it(
    pool: ConnectionPool[Any], server: FakeServer
) -> None:
    conn = pool.getconn()
    with conn.lock:  # a statement is under way
        inside.end_thread_of(conn)
        inside.tick(pool)
        assert inside.is_lent(conn)
    pool.putconn(conn)
    until_idle(pool, 1)
    assert len(server.connections) == 1


def test_what_nobody_has_begun_to_close_is_closed(
    pool: ConnectionPool[Any], server: FakeServer
) -> None:
    inside.half_close(pool, inside.idle(pool)[0])
    inside.tick(pool)
    until(lambda: not server.connections)


def test_what_was_handed_to_somebody_who_has_gone_is_lent_again(pool: ConnectionPool[Any]) -> None:
    one = inside.handed_over(pool, looks=99)
    one.waiter.left = True
    inside.tick(pool)
    until_idle(pool, 1)
    pool.putconn(pool.getconn())


def test_a_borrower_that_is_interrupted_leaves_what_it_had_in_hand(
    server: FakeServer,
) -> None:
    interrupts: list[BaseException] = []

    def describe() -> object:
        while interrupts:
            raise interrupts.pop()
        return None

    with working_pool(server, max_size=1, describe=describe) as pool:
        pool.putconn(pool.getconn())
        interrupts.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            pool.getconn()
        gc.collect()
        inside.tick(pool)
        until_idle(pool, 1)
        assert len(server.connections) == 1


def test_attempts_under_way_are_bounded_by_max_connecting(server: FakeServer) -> None:
    under_way, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def pause(where: str) -> None:
        nonlocal under_way, most
        if where == "connecting":
            with lock:
                under_way += 1
                most = max(most, under_way)
            go.wait(30)
            with lock:
                under_way -= 1

    server.pause = pause
    with working_pool(server, max_size=8, max_connecting=2) as pool:

        def borrow() -> None:
            with pool.connection():
                pass

        threads = [threading.Thread(target=borrow) for _ in range(8)]
        for thread in threads:
            thread.start()
        until_waiting(pool, 8)
        until(lambda: under_way >= 2)
        go.set()
        for thread in threads:
            thread.join(30)
    assert most == 2


def test_a_job_is_over_although_an_interrupt_keeps_its_note_from_being_left() -> None:
    job = inside.threads.Job()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inside.threads.do(fail, job, fail)
    assert job.over


def test_threads_may_begin_while_those_that_end_soon_are_waited_for() -> None:
    threads = []

    def begin() -> None:
        thread = threading.Thread(target=lambda: None)
        threads.append(thread)
        assert inside.threads.start(thread)

    begin()
    with inside.between_steps_of(weakref, begin, at_most=20):
        inside.threads.await_all()
    assert len(threads) > 1
