from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import scratch
from tests.cluster import Server
from tests.e2e import processes, tiny

TINY = "connpool_tiny"
SHOP = "connpool_shop"


def create(server: Server, name: str) -> None:
    server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0")


@pytest.fixture
def project(tmp_path: Path, cluster: Server) -> Iterator[Path]:
    """A tiny project on a database of its own, which is not that of its tests."""
    create(cluster, TINY)
    yield tiny.write(tmp_path)
    for (name,) in cluster.execute(
        "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"%{TINY}%"]
    ):
        cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def tiny_environ(cluster: Server) -> Callable[..., dict[str, str]]:
    """A function of pool options that returns the environment of the tiny project."""

    def environ(**pool: Any) -> dict[str, str]:
        place = cluster.django()
        entry = {
            **place,
            "ENGINE": "django_connpool.backends.postgresql",
            "NAME": TINY,
            "OPTIONS": {**place["OPTIONS"], "pool": pool},
        }
        return {"TINY_DATABASE": json.dumps(entry)}

    return environ


@pytest.fixture(scope="module")
def shop(cluster: Server) -> Iterator[str]:
    """The name of a database with the shop's sample data."""
    create(cluster, SHOP)
    for command in ("migrate", "load_sample"):
        url = cluster.url(dbname=SHOP)
        processes.run(processes.TESTPROJECT, "manage.py", command, "-v0", DATABASE_URL=url)
    yield SHOP
    cluster.execute(f"DROP DATABASE {SHOP} WITH (FORCE)")


@pytest.fixture
def shop_environ(shop: str, cluster: Server) -> Callable[..., dict[str, str]]:
    """A function of pool options that returns the environment of the shop."""
    # Short, as the path of a Unix socket has to be.
    status = tempfile.mkdtemp(prefix="e-", dir=scratch.folder())

    def environ(**pool: Any) -> dict[str, str]:
        url = cluster.url(dbname=shop, **{f"pool_{key}": item for key, item in pool.items()})
        return {"DEBUG": "on", "DATABASE_URL": url, "CONNPOOL_STATUS_DIR": status}

    return environ
