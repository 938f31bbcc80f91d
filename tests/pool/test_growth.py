"""When one more connection is worth opening."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests import inside
from tests.inside import (
    PATIENCE,
    patience,
    worth_opening,
)
from tests.pool.real.helpers import DEADLINE, until

from .fake import FakeClock, FakeServer, working_pool

# One in line, one on loan that comes back in half the time a connect takes.
QUIET: dict[str, Any] = {
    "waiting": 1,
    "opening": 0,
    "on_loan": 1,
    "stalled_for": 0.0,
    "pressed_for": 0.0,
    "mean_hold": 0.05,
    "mean_connect": 0.1,
}


@pytest.mark.parametrize(
    ("case", "worth"),
    [
        ({}, False),
        ({"on_loan": 0}, True),
        ({"on_loan": 0, "opening": 1}, False),
        ({"waiting": 3}, True),
        ({"waiting": 3, "opening": 1}, False),
        ({"waiting": 3, "on_loan": 4}, False),
        ({"stalled_for": 0.06}, True),
        ({"stalled_for": 0.04}, False),
        ({"waiting": 2, "stalled_for": 0.06, "opening": 1}, True),
        ({"pressed_for": 0.06}, True),
        ({"waiting": 2, "pressed_for": 0.06, "opening": 1}, False),
        ({"mean_hold": None}, True),
        ({"mean_hold": None, "waiting": 2, "opening": 1}, False),
    ],
)
def test_worth_opening(case: dict[str, Any], worth: bool) -> None:
    assert worth_opening(**QUIET | case) is worth


def test_patience_is_half_a_connect_but_never_nothing() -> None:
    assert patience(1.0) == 0.5
    assert patience(0.0) == PATIENCE > 0


def test_a_line_that_moves_but_does_not_end_gets_another_connection() -> None:
    """By whoever asks whether a worker is wanted, and then by the worker that begins."""
    clock, done = FakeClock(), threading.Event()
    with working_pool(FakeServer(), max_size=2) as pool:
        inside.set_clock(pool, clock)
        conn = pool.getconn()
        inside.believes(pool, hold=0.001, connect=0.1)

        def borrow() -> None:
            with pool.connection():
                done.wait(DEADLINE)

        waiting = [threading.Thread(target=borrow) for _ in range(3)]
        for thread in waiting[:2]:
            thread.start()
        until(lambda: pool.snapshot()["waiting"] == 2)
        clock.now += 0.06  # seconds: more than half of what connecting takes
        pool.putconn(conn)  # so it moves
        del conn
        waiting[2].start()  # who looks whether there should be one more
        until(lambda: pool.snapshot()["size"] == 2)
        done.set()
        for thread in waiting:
            thread.join(DEADLINE)
