"""uvicorn with views of both kinds on one pool of four: never a fifth session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.processes import TESTPROJECT
from tests.most_sessions import MostSessions

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SIZE = 4
PATHS = ("/scarce/", "/", "/api/products/", "/summary/")  # the first is the repository's


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
        MostSessions(cluster, "datname", shop) as seen,
    ):
        assert set(asyncio.run(load())) == {200}
    assert 2 <= seen.most <= SIZE
