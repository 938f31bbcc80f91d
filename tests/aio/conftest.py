from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest
import uvloop

from django_connpool import aio
from tests.cluster import Server
from tests.pool.real.helpers import LOGGER

_numbers = itertools.count(1)

MakePool: TypeAlias = Callable[..., aio.Pool]
Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_in(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Any]) -> Any:
    """As `asyncio.run`, in this loop, and not for ever."""
    try:
        return loop.run_until_complete(asyncio.wait_for(main, 60))
    finally:
        loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


in_each_loop = pytest.mark.parametrize("kind", LOOPS)


@pytest.fixture
def kind() -> str:
    """The kind of loop; tests that are to be done with each are marked `in_each_loop`."""
    return "asyncio"


@pytest.fixture
def run(kind: str) -> Run:
    """A function that runs a coroutine to its end, in a loop of the test's kind."""
    return lambda main: run_in(LOOPS[kind](), main)


@pytest.fixture
def app() -> str:
    """An application_name by which the server tells this test's connections from others'."""
    return f"aio-{next(_numbers)}"


@pytest.fixture
def backends(cluster: Server, app: str) -> Callable[[], int]:
    """A function that asks the server how many connections the test's pools have."""
    return lambda: cluster.backends(application_name=app)


@pytest.fixture
def make_pool(dsn: str, app: str) -> Iterator[MakePool]:
    """A function that makes a pool which is open, and is closed with the test."""
    made: list[aio.Pool] = []

    def make(conninfo: str = dsn, **options: Any) -> aio.Pool:
        options = {"max_size": 2, "timeout": 30.0, "name": app, **options}
        pool = aio.create_pool(f"{conninfo} application_name={app}", **options)
        pool.sync.open()
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.sync.close()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """A function that returns the pools' log lines which contain a text."""
    caplog.set_level("INFO", LOGGER)
    return lambda text: [
        record.getMessage()
        for record in caplog.records  # asyncio's own tell of a slow machine
        if record.name.startswith(LOGGER) and text in record.getMessage()
    ]
