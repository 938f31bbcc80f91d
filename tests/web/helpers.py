"""Pools in trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.testproject.processes import wait_until


@contextmanager
def everything_on_loan(wrapper: Any) -> Iterator[None]:
    """A block in which this thread has borrowed every connection of a wrapper's pool."""
    pool = wrapper.pool
    lent = [pool.getconn(timeout=30) for _ in range(pool.max_size)]
    try:
        yield
    finally:
        for conn in lent:
            pool.putconn(conn)


@contextmanager
def somebody_waiting(wrapper: Any) -> Iterator[None]:
    """A block in which all are on loan, and another thread stands in line."""
    pool = wrapper.pool
    waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn(timeout=60)))
    with everything_on_loan(wrapper):
        waiter.start()
        wait_until(lambda: pool.snapshot()["waiting"] == 1, "somebody waits")
        yield
    waiter.join()
