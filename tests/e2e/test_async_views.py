"""uvicorn with views of both kinds on one pool of four: never a fifth session."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.processes import TESTPROJECT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SIZE = 4
PATHS = ("/scarce/", "/", "/api/products/", "/summary/")  # the first is the repository's


class Most:
    """The most sessions that the server has had of a database, while a test lasts."""

    def __init__(self, server: Server, dbname: str) -> None:
        self._server, self._dbname = server, dbname
        self.most = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def _count(self) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            while not self._is_over.is_set():
                found: Any = conn.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [self._dbname]
                ).fetchone()
                self.most = max(self.most, found[0])
                time.sleep(0.005)

    def __enter__(self) -> Most:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_views_of_both_kinds_under_load_share_four_sessions(
    shop: str, shop_environ: Callable[..., dict[str, str]], cluster: Server
) -> None:
    port = processes.free_port()
    command = ["-m", "uvicorn", "testproject.asgi:application", "--port", str(port)]
    environ = shop_environ(max_size=SIZE, timeout=30)

    async def load() -> list[int]:
        limits = httpx.Limits(max_connections=24)
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
            asked = [client.get(PATHS[number % len(PATHS)]) for number in range(400)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    with (
        processes.serving(TESTPROJECT, port, *command, "--log-level", "warning", **environ),
        Most(cluster, shop) as seen,
    ):
        assert set(asyncio.run(load())) == {200}
    assert 2 <= seen.most <= SIZE
