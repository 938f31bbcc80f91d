from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_connpool import ConnectionPool
from tests.cluster import Server
from tests.pool.real.fake_server import FakeServer
from tests.pool.real.helpers import LOGGER

_numbers = itertools.count(1)

MakePool = Callable[..., ConnectionPool[Any]]


@pytest.fixture
def app() -> str:
    """An application_name by which the server tells this test's connections from others'."""
    return f"pool-{next(_numbers)}"


@pytest.fixture
def backends(cluster: Server, app: str) -> Callable[[], int]:
    """A function that asks the server how many connections the test's pools have."""
    return lambda: cluster.backends(application_name=app)


@pytest.fixture
def make_pool(dsn: str, app: str) -> Iterator[MakePool]:
    """A function that makes a pool; it opens only what is used, and is closed with the test."""
    pools = []

    def make(conninfo: Any = dsn, **options: Any) -> ConnectionPool[Any]:
        if isinstance(conninfo, str):
            conninfo = f"{conninfo} application_name={app}"
        options = {"min_size": 0, "max_size": 4, "name": app, **options}
        pools.append(ConnectionPool(conninfo, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """A function that returns the pools' log lines which contain a text."""
    caplog.set_level("INFO", LOGGER)
    return lambda text: [
        record.getMessage() for record in caplog.records if text in record.getMessage()
    ]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A listener that answers who connects as it is told, in PostgreSQL's protocol."""
    with FakeServer() as started:
        yield started
