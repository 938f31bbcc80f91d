"""Orders of events in which the pool was once wrong: found by the model, kept as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import inside
from tests.pool.real.helpers import DEADLINE, until

from .fake import FakeMaintenance, FakeServer, working_pool
from .test_model import TIMEOUT, PoolMachine

Play = Callable[..., PoolMachine]


@pytest.fixture
def play() -> Iterator[Play]:
    """Begin a play with a pool of these options; what always holds is checked after each act."""
    machines = []

    def begin(*acts: tuple[Any, ...], **options: Any) -> PoolMachine:
        machine = PoolMachine()
        machines.append(machine)
        defaults = {"max_size": 1, "min_share": 0, "max_connecting": 1, "ping_after": 30.0}
        machine.begin(**defaults | options)
        for name, *arguments in acts:
            getattr(machine, name)(*arguments)
            machine.sound()
        return machine

    yield begin
    for machine in machines:
        machine.teardown()


def test_a_newcomer_between_two_attempts_to_connect_is_not_forgotten(play: Play) -> None:
    play(
        ("borrow", 0, TIMEOUT),
        ("give_up", 0),
        ("server_becomes", "starting"),
        ("work_much", 2),
        ("borrow", 0, TIMEOUT),
    )


def test_one_that_does_not_wait_closes_what_a_dead_borrower_left(play: Play) -> None:
    play(
        ("borrow", 0, TIMEOUT),
        ("work_much", 3),
        ("wake_up", 0),
        ("drop", 0),
        ("borrow", 0, 0.0),
    )


def test_a_borrower_that_met_a_dead_connection_is_one_request(play: Play) -> None:
    play(
        ("work_much", 3),
        ("server_restarts",),
        ("borrow", 0, TIMEOUT),
        min_share=1,
    )


def test_borrowers_that_were_handed_dead_connections_keep_their_places(play: Play) -> None:
    machine = play(
        ("borrow", 0, TIMEOUT),
        ("pass_time", 0.001),
        ("borrow", 0, TIMEOUT),
        ("resize", 2, 0),
        ("work_much", 9),
        ("maintain",),
        ("pass_time", 0.1),
        ("work_much", 9),
        ("server_restarts",),
        ("wake_up", 0),
        ("wake_up", 0),
    )
    assert machine.pool.snapshot()["waiting"] == 2


def test_a_connection_drained_as_it_opens_is_replaced_before_it_is_closed(play: Play) -> None:
    machine = play(
        ("borrow", 0, TIMEOUT),
        ("work", 0),
        ("drain",),
        ("work", 0),
        max_size=2,
    )
    for worker in (0, 1):
        machine.work(worker)
    assert machine.pool.snapshot()["opening"] == 1


def test_a_borrower_that_was_handed_a_dead_connection_is_not_refused(
    play: Play,
) -> None:
    machine = play(
        ("borrow", 0, TIMEOUT),
        ("work_much", 3),
        ("borrow", 0, TIMEOUT),
        ("borrow", 0, TIMEOUT),
        ("server_restarts",),
        ("wake_up", 0),
        max_waiting=2,
    )
    assert machine.pool.snapshot()["waiting"] == 3


def test_an_interrupt_after_a_loan_was_handed_on_leaves_it_to_its_new_owner() -> None:
    got: list[Any] = []
    done = threading.Event()

    def borrow() -> None:
        got.append(pool.getconn())
        done.wait(DEADLINE)

    def interrupt() -> None:
        until(lambda: got)
        raise KeyboardInterrupt

    # Nobody else looks after the pool: what is interrupted is done in this thread.
    with (
        inside.maintained_by(FakeMaintenance()),
        working_pool(FakeServer(), max_size=1) as pool,
    ):
        conn = pool.getconn()
        waiting = threading.Thread(target=borrow)
        waiting.start()
        until(lambda: pool.snapshot()["waiting"])
        with inside.lock(pool):
            pool.putconn(conn)  # as a finalizer that runs inside it: it is left for later
        with inside.waking_then(interrupt), pytest.raises(KeyboardInterrupt):
            inside.tick(pool)
        assert pool.snapshot()["in_use"] == 1
        pool.putconn(got.pop())
        done.set()
        waiting.join(DEADLINE)
        pool.putconn(pool.getconn(timeout=0))
        assert pool.get_stats()["connections_num"] == 1
