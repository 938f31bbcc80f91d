"""Tasks, threads, cancellations, killed backends and stopped loops at random: nothing is lost."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.aio.conftest import LOOPS, MakePool, run_in
from tests.aio.helpers import at_rest, seen
from tests.cluster import Server
from tests.most_sessions import MostSessions
from tests.pool.real.helpers import until

CANCELLATIONS = 10_000
SIZE = 4


async def at_random(pool: Any, chance: random.Random, expected: int) -> None:
    """Something a task does with a pool, which may be cancelled anywhere."""
    kind = chance.randrange(6)
    if kind == 0:
        assert await pool.fetchval("SELECT %s::int", [expected]) == expected
    elif kind == 1:
        async with pool.transaction() as conn:
            await conn.execute("SET LOCAL work_mem = '3MB'")
            row = await (await conn.execute("SELECT %s::int", [expected])).fetchone()
            assert row == (expected,)
    elif kind == 2:
        async with pool.acquire() as conn:
            await conn.execute("SET work_mem = '3MB'")
            await conn.execute("SELECT pg_sleep(0.01)")
    elif kind == 3:
        conn = await pool.acquire()
        try:
            await conn.execute("BEGIN")
            await conn.execute("SELECT %s::int", [expected])
        finally:
            await pool.release(conn)
    elif kind == 4:
        await pool.acquire()  # and forget it
    else:
        async with pool.acquire(timeout=chance.choice([0.001, 5])) as conn, conn.pipeline():
            await conn.execute("SELECT 1")
            await conn.execute("SELECT 2")


@pytest.mark.stress
@pytest.mark.parametrize("kind", LOOPS)
def test_random_cancellations_lose_no_slot(
    kind: str, make_pool: MakePool, cluster: Server, app: str, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=SIZE, timeout=20.0)
    chance = random.Random(22)
    left = CANCELLATIONS // len(LOOPS)

    async def main() -> None:
        nonlocal left
        while left:
            burst = min(left, 50)
            tasks = [
                asyncio.ensure_future(at_random(pool, chance, number)) for number in range(burst)
            ]
            for task in chance.sample(tasks, burst):
                await asyncio.sleep(chance.choice([0, 0, 0, 0.0003, 0.001]))
                task.cancel()
                if not chance.randrange(20):
                    await asyncio.sleep(0)
                    task.cancel()  # once more, while it gives up
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, AssertionError):
                    raise outcome
            left -= burst

    work: list[Any] = []
    is_over = threading.Event()

    def query() -> None:
        while not is_over.is_set():
            with pool.sync.connection(20) as conn:
                row = conn.execute("SELECT current_setting('work_mem')").fetchone()
                if row != ("4MB",):
                    work.append(row)
            time.sleep(0.001)

    threads = [threading.Thread(target=query) for _ in range(2)]
    with MostSessions(cluster, "application_name", app) as bound:
        for thread in threads:
            thread.start()
        try:
            loop = LOOPS[kind]()
            try:
                loop.run_until_complete(main())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                loop.close()
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        until(lambda: at_rest(pool))
    assert not work, "a thread has found what a task has set"
    assert bound.most <= SIZE
    assert backends() == seen(pool)["size"] <= SIZE

    async def all_of_them() -> None:
        conns = [await pool.acquire(10) for _ in range(SIZE)]
        for conn in conns:
            await conn.execute("SELECT 1")
            await pool.release(conn)

    run_in(LOOPS[kind](), all_of_them())


@pytest.mark.stress
def test_killed_backends_and_dying_threads_lose_no_slot(
    make_pool: MakePool, cluster: Server, app: str, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=SIZE, timeout=20.0)
    chance = random.Random(221)
    answered = [0, 0]
    until_when = time.monotonic() + 10

    def die_with_it() -> None:
        with suppress(psycopg.Error):
            pool.sync.getconn(20)

    def work() -> None:
        while time.monotonic() < until_when:
            with suppress(psycopg.Error), pool.sync.connection(20) as conn:
                conn.execute("SELECT 1")
                answered[0] += 1
            if not random.randrange(50):
                thread = threading.Thread(target=die_with_it)
                thread.start()
                thread.join()

    async def ask() -> None:
        while time.monotonic() < until_when:
            with suppress(psycopg.Error):
                await pool.fetchval("SELECT 1")
                answered[1] += 1

    async def main() -> None:
        threads = [asyncio.to_thread(work) for _ in range(4)]
        await asyncio.gather(*(ask() for _ in range(8)), *threads)

    def kill() -> None:
        while time.monotonic() < until_when:
            time.sleep(chance.random() / 2)
            cluster.terminate(application_name=app)

    killer = threading.Thread(target=kill)
    killer.start()
    loops = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    with MostSessions(cluster, "application_name", app) as bound:
        for thread in loops:
            thread.start()
        for thread in (*loops, killer):
            thread.join()
        until(lambda: at_rest(pool))
    assert min(answered) > 100
    assert bound.most <= SIZE
    pool.sync.check()  # what was killed last is idle, and nobody has noticed
    until(lambda: at_rest(pool) and backends() == seen(pool)["size"])
