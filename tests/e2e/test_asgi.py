"""uvicorn, and clients that go away at any moment."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Server
from tests.e2e import processes, ways_site
from tests.e2e.conftest import TINY
from tests.e2e.processes import Served
from tests.testproject.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]
SIZE = 4
GET = "GET {} HTTP/1.0\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def served(project: Path, tiny_environ: Environ) -> Iterator[Served]:
    port = processes.free_port()
    command = ["-m", "uvicorn", "asgi:application", "--port", str(port), "--log-level", "warning"]
    environ = {**tiny_environ(max_size=SIZE, timeout=30), "DJANGO_SETTINGS_MODULE": "ways"}
    ways_site.add(project)
    with processes.serving(project, port, *command, **environ) as served:
        yield served


async def asked(port: int, path: str, patience: float | None = None) -> str | None:
    """The body of the answer; None after going away when patience (seconds) has run out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), patience)
    except asyncio.TimeoutError:
        return None
    finally:
        await left(writer)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    return body.decode()


async def left(writer: asyncio.StreamWriter) -> None:
    """Go away, whatever there is still to be read."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def all_asked(port: int, paths: list[tuple[str, float | None]], at_once: int) -> list[Any]:
    limit = asyncio.Semaphore(at_once)

    async def one(path: str, patience: float | None) -> str | None:
        async with limit:
            return await asked(port, path, patience)

    return await asyncio.gather(*(one(path, patience) for path, patience in paths))


def status(served: Served) -> Any:
    return json.loads(served.get("/status/"))


def busy_backends(server: Server) -> int:
    ((count,),) = server.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state <> 'idle'", [TINY]
    )
    return int(count)


def is_whole(served: Served, server: Server) -> None:
    """Wait for the pool to have every place again; the server is asked too."""

    def whole() -> bool:
        found = status(served)
        return not found["tasks"] and not found["in_use"] and not busy_backends(server)

    try:
        wait_until(whole, "the pool is whole", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {status(served)}\n{served.log()[-4000:]}") from error
    assert server.backends(dbname=TINY) <= SIZE
    # All places can be had at once.
    paths = [(f"/sync/{tag}/", None) for tag in range(SIZE)]
    assert asyncio.run(all_asked(served.port, paths, SIZE)) == [str(tag) for tag in range(SIZE)]


@pytest.mark.parametrize("way", ways_site.WAYS)
def test_every_way_to_query_gives_back_and_gets_its_own_answers(
    served: Served, cluster: Server, way: str
) -> None:
    paths = [(f"/{way}/{tag}/", None) for tag in range(40)]
    # A request that queries in four threads at once needs four connections.
    at_once = SIZE // 4 if way == "gathered" else 12
    found = asyncio.run(all_asked(served.port, paths, at_once))

    assert found == [str(tag) for tag in range(40)]
    is_whole(served, cluster)
    assert status(served)["stats"]["loans_reclaimed"] == 0


def test_the_pool_is_whole_after_500_clients_that_went_away_at_random_moments(
    served: Served, cluster: Server
) -> None:
    chance = random.Random(5)
    ways = [way for way in ways_site.WAYS if way != "gathered"]
    paths: list[tuple[str, float | None]] = [
        (f"/{chance.choice(ways)}/{tag}/", chance.random()) for tag in range(500)
    ]
    found = asyncio.run(all_asked(served.port, paths, 24))

    answered = [(tag, text) for tag, text in enumerate(found) if text is not None]
    assert all(text == str(tag) for tag, text in answered)
    assert 20 < len(answered) < 480
    is_whole(served, cluster)


def test_nothing_is_held_between_the_messages_of_streams(served: Served, cluster: Server) -> None:
    async def open_streams(count: int) -> list[asyncio.StreamWriter]:
        writers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(GET.format("/sse/").encode())
            assert b"data: 1" in await asyncio.wait_for(reader.readuntil(b"data: 1"), 60)
            writers.append(writer)
        return writers

    async def main() -> None:
        writers = await open_streams(200)
        try:
            await asyncio.to_thread(is_whole, served, cluster)
            paths = [(f"/sync/{tag}/", None) for tag in range(100)]
            found = await all_asked(served.port, paths, 12)
            assert found == [str(tag) for tag in range(100)]
        finally:
            for writer in writers:
                await left(writer)

    asyncio.run(main())
    is_whole(served, cluster)
    assert status(served)["stats"]["requests_timeouts"] == 0


@pytest.mark.parametrize("path", ["/rows/", "/arows/"])
@pytest.mark.filterwarnings("ignore::Warning")
def test_a_body_with_a_server_side_cursor_that_is_left_in_the_middle_leaves_nothing(
    served: Served, cluster: Server, path: str
) -> None:
    served.get("/fill/")

    async def leave() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(GET.format(path).encode())
        await asyncio.wait_for(reader.readuntil(b"xxx"), 60)
        await left(writer)

    async def main() -> None:
        await asyncio.gather(*(leave() for _ in range(12)))

    asyncio.run(main())
    is_whole(served, cluster)
    assert served.get(path).count("\n") == 2000
    is_whole(served, cluster)
