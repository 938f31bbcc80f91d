"""Tasks that borrow: asyncpg's pool, psycopg_pool's AsyncConnectionPool and ours, in one run.

Each round is done by each of them in turn, in one process and one loop, on one server, with the
same number of connections. asyncpg is there for reference: it is another driver, and resets a
session with a round trip at each return. So is the driver of django-vpg, where it is installed: its
statements borrow by themselves, in a thread of its own without Python, and nothing is reset. Times
are the processor's, in this process: what else the machine does makes them hardly longer.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import psycopg
import psycopg_pool

try:
    from django_vpg._vpg_driver import RustPgDriver
except ImportError:  # it is for Django 6.1 and Python 3.12
    RustPgDriver = None

from bench.measure import spread, table
from django_connpool import aio
from tests.cluster import Cluster

SIZE = 4
TASKS = (1, 32, 256)
OURS, THEIRS = "django_connpool", "psycopg_pool"
NAMES = ["asyncpg", THEIRS, OURS, *(["django-vpg"] if RustPgDriver else [])]


class Statements:
    """django-vpg's way: a task does not borrow, each of its statements does."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def __aenter__(self) -> Statements:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """There is nothing to give back."""

    async def fetchrow(self, query: str) -> Any:
        rows, _ = await self._driver.query(query, [])
        return rows[0]


class Pools:
    """The three, open, with all their connections."""

    def __init__(self, server: Cluster) -> None:
        self._server = server

    async def __aenter__(self) -> Pools:
        url, dsn = self._server.url(), self._server.dsn()
        self.asyncpg = await asyncpg.create_pool(url, min_size=SIZE, max_size=SIZE)
        self.psycopg = psycopg_pool.AsyncConnectionPool(
            dsn,
            min_size=SIZE,
            max_size=SIZE,
            timeout=60,
            open=False,
            kwargs={"autocommit": True},
        )
        await self.psycopg.open(wait=True)
        self.ours = aio.create_pool(dsn, min_size=SIZE, max_size=SIZE, timeout=60)
        await self.ours.open(wait=True)
        if RustPgDriver:
            place = self._server.django()
            self.vpg = RustPgDriver.connect(
                *(place["HOST"], int(place["PORT"]), "postgres", place["USER"]),
                *(place["PASSWORD"], SIZE),
            )
        for block in self.blocks():
            # Each connection once. Ours learns from one of them which of the server's functions
            # change a session; until that is read, each return takes a little longer.
            async with AsyncExitStack() as stack:
                for _ in range(SIZE):
                    await stack.enter_async_context(block())
        await asyncio.sleep(1.0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.asyncpg.close()
        await self.psycopg.close()
        await self.ours.close()
        if RustPgDriver:
            self.vpg.close_sync()

    def blocks(self) -> list[Callable[[], Any]]:
        blocks = [self.asyncpg.acquire, self.psycopg.connection, self.ours.acquire]
        return [*blocks, lambda: Statements(self.vpg)][: len(NAMES)]


async def empty(block: Callable[[], Any]) -> None:
    async with block():
        pass


async def select_1(block: Callable[[], Any]) -> None:
    async with block() as conn:
        if isinstance(conn, psycopg.AsyncConnection):
            await (await conn.execute("SELECT 1")).fetchone()
        else:
            await conn.fetchrow("SELECT 1")


async def yielding(block: Callable[[], Any]) -> None:
    """An empty block in which the others go on: so that there is a line."""
    async with block():
        await asyncio.sleep(0)


Work = Callable[[Callable[[], Any]], Awaitable[None]]


async def micros(block: Callable[[], Any], work: Work, tasks: int, number: int) -> float:
    """Microseconds of the processor's for each, done `number` times by so many tasks."""

    async def some() -> None:
        for _ in range(max(1, number // tasks)):
            await work(block)

    began = time.process_time()
    await asyncio.gather(*(some() for _ in range(tasks)))
    return (time.process_time() - began) / (max(1, number // tasks) * tasks) * 1e6


async def compare(pools: Pools, rounds: int, number: int) -> None:
    for title, work, share in (
        ("acquire and release", yielding, 2),
        ("acquire, SELECT 1, release", select_1, 1),
    ):
        rows: list[list[object]] = []
        for tasks in TASKS:
            used = empty if work is yielding and tasks == 1 else work
            names = NAMES if work is select_1 else NAMES[: NAMES.index(OURS) + 1]
            found: list[list[float]] = [[] for _ in names]
            for _ in range(rounds):
                for results, block in zip(found, pools.blocks(), strict=False):
                    results.append(await micros(block, used, tasks, share * number))
            pair = (found[NAMES.index(OURS)], found[NAMES.index(THEIRS)])
            ratios = [ours / theirs for ours, theirs in zip(*pair, strict=True)]
            cells: list[object] = [spread(each, 0.1) for each in found]
            cells += ["-"] * (len(NAMES) - len(names))
            rows.append([str(tasks), *cells, spread(ratios, 0.1)])
        table(
            f"{title}: µs of the processor's (and between what four fifths lie), {SIZE} sessions",
            ["tasks", *NAMES, "ours to psycopg_pool's"],
            rows,
        )


class Mixed:
    """So many threads and so many tasks want one pool's connections, each for a query."""

    def __init__(self, pool: aio.Pool, each: int) -> None:
        self._pool = pool
        self._each = each
        self._until = 0.0
        self.by_threads = self.by_tasks = 0

    def _thread(self) -> None:
        mine = 0
        while time.perf_counter() < self._until:
            with self._pool.sync.connection() as conn:
                conn.execute("SELECT pg_sleep(0.002)")
            mine += 1
        self.by_threads += mine

    async def _task(self) -> None:
        while time.perf_counter() < self._until:
            async with self._pool.acquire() as conn:
                await conn.execute("SELECT pg_sleep(0.002)")
            self.by_tasks += 1

    async def run(self, seconds: float) -> float:
        """Return the share that the tasks had."""
        self.by_threads = self.by_tasks = 0
        self._until = time.perf_counter() + seconds
        threads = [threading.Thread(target=self._thread) for _ in range(self._each)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(self._task() for _ in range(self._each)))
        for thread in threads:
            await asyncio.to_thread(thread.join)
        return self.by_tasks / (self.by_tasks + self.by_threads) * 100


async def fairness(pools: Pools, rounds: int, seconds: float) -> None:
    rows: list[list[object]] = []
    for each in (8, 32):
        mixed = Mixed(pools.ours, each)
        shares, rates = [], []
        for _ in range(rounds):
            shares.append(await mixed.run(seconds))
            rates.append((mixed.by_tasks + mixed.by_threads) / seconds)
        rows.append([f"{each} of each", spread(shares, 0.1), spread(rates, 0.1)])
    table(
        f"threads and tasks that query (2 ms) on the same {SIZE} connections",
        ["", "% by tasks", "queries/s"],
        rows,
    )


async def main(rounds: int, number: int) -> None:
    with Cluster() as server:
        async with Pools(server) as pools:
            await compare(pools, rounds, number)
            await fairness(pools, max(3, rounds // 3), 3.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=1024, help="of borrows in a round")
    given = parser.parse_args()
    print(f"asyncpg {asyncpg.__version__}, psycopg {psycopg.__version__}, ", end="")
    print(f"psycopg_pool {psycopg_pool.__version__}")
    asyncio.run(main(given.rounds, given.number))
