"""What tests of tasks that borrow ask of a pool, and wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from django_connpool import aio

DEADLINE = 30.0  # seconds: when what should happen soon is given up


async def until(condition: Callable[[], Any]) -> Any:
    """As the tests' `until`, and the loop goes on meanwhile."""
    give_up = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not happen in time"
        await asyncio.sleep(0.002)
    return value


def seen(pool: aio.Pool) -> dict[str, Any]:
    return pool.sync.snapshot()


def at_rest(pool: aio.Pool, idle: int | None = None) -> bool:
    """Whether nothing is on loan, being opened or closed; and so many connections idle."""
    now = seen(pool)
    is_quiet = not (now["in_use"] or now["opening"] or now["closing"] or now["waiting"])
    return is_quiet and idle in (None, now["idle"])


async def in_line(pool: aio.Pool, count: int) -> None:
    await until(lambda: seen(pool)["waiting"] == count)


async def pid(conn: Any) -> int:
    return int((await (await conn.execute("SELECT pg_backend_pid()")).fetchone())[0])
