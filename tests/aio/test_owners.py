"""A loan is its task's: it ends with the task, and reports tell whose it is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.aio.conftest import MakePool, Run
from tests.aio.helpers import at_rest, seen, until


def test_a_task_that_ends_gives_back_by_ending(
    make_pool: MakePool, run: Run, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool(max_size=1)
    kept: list[Any] = []

    async def forget_it() -> None:
        kept.append(await pool.acquire())

    async def main() -> None:
        await asyncio.get_running_loop().create_task(forget_it(), name="the forgetful")
        assert await pool.fetchval("SELECT 1") == 1
        await until(lambda: logged("by task the forgetful"))

    run(main())
    assert pool.sync.get_stats()["loans_reclaimed"] == 1


def test_a_connection_that_is_dropped_comes_back(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        await pool.acquire()
        gc.collect()
        assert await pool.fetchval("SELECT 1") == 1

    run(main())
    assert pool.sync.get_stats()["loans_reclaimed"] == 1


def test_what_is_given_back_in_time_is_not_touched_by_the_end_of_its_task(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        is_over, may_end = asyncio.Event(), asyncio.Event()

        async def borrow() -> None:
            async with pool.acquire() as conn:
                await conn.execute("SELECT 1")
            is_over.set()
            await may_end.wait()

        first = asyncio.ensure_future(borrow())
        await is_over.wait()
        async with pool.acquire() as conn:
            may_end.set()
            await first
            pool.sync.get_stats()
            await conn.execute("SELECT 1")
        assert at_rest(pool, idle=1)

    run(main())
    assert pool.sync.get_stats()["loans_reclaimed"] == 0


def test_a_task_may_give_back_what_another_has_borrowed(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        conn = await pool.acquire()

        async def give_back() -> None:
            await conn.execute("SELECT 1")
            await pool.release(conn)

        await asyncio.ensure_future(give_back())
        assert at_rest(pool, idle=1)

    run(main())


def test_a_connection_that_another_task_works_with_does_not_end_with_the_first(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async def begin() -> asyncio.Future[Any]:
            conn = await pool.acquire()
            work = asyncio.ensure_future(use(conn))
            await until(lambda: conn.pgconn.transaction_status == 1)
            return work

        async def use(conn: Any) -> Any:
            row = await (await conn.execute("SELECT pg_sleep(0.2), 7")).fetchone()
            await pool.release(conn)
            return row[1]

        assert await (await asyncio.ensure_future(begin())) == 7
        assert at_rest(pool, idle=1)

    run(main())
    assert pool.sync.get_stats()["loans_reclaimed"] == 0


def test_a_leak_is_reported_with_the_task_and_the_lines(
    make_pool: MakePool, run: Run, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool(max_size=1, leak_after=0.05)

    async def hold_on() -> None:
        async with pool.acquire():
            await until(lambda: logged("on loan for"))

    async def main() -> None:
        await asyncio.get_running_loop().create_task(hold_on(), name="the slow one")

    run(main())
    (said,) = logged("on loan for")
    assert "to task the slow one, borrowed at " in said
    borrowed, now = said.split(", now at ")
    assert borrowed.endswith("in hold_on")
    assert " in until" in now and "helpers.py" in now


def test_a_loan_is_seen_with_its_task_and_the_line_that_is_at(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=2)

    async def wait_here(event: asyncio.Event) -> None:
        async with pool.acquire() as conn:
            await conn.execute("SELECT 'secret'")
            await event.wait()

    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.get_running_loop().create_task(wait_here(event), name="looked at")
        await until(lambda: seen(pool)["in_use"])
        await asyncio.sleep(0.05)
        (loan,) = seen(pool)["loans"]
        assert loan["thread"] == "task looked at"
        assert loan["at"].endswith("in wait_here")
        assert loan["statement"] == "SELECT ?"
        event.set()
        await task

    run(main())


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_blocks_in_generators_that_are_left_early_give_back(
    ends: str, make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def rows() -> Any:
        async with pool.transaction() as conn:
            for row in await (await conn.execute("SELECT generate_series(1, 5)")).fetchall():
                yield row

    async def main() -> None:
        found = rows()
        async for _ in found:
            if ends == "badly":
                break
        if ends == "badly":
            await found.aclose()
        assert at_rest(pool, idle=1)

    run(main())


def test_a_name_of_the_work_is_told_for_a_task_too(make_pool: MakePool, run: Run) -> None:
    noted = iter(["first", "second"])
    pool = make_pool(max_size=1, describe=lambda: next(noted, None))

    async def main() -> None:
        async with pool.acquire():
            assert seen(pool)["loans"][0]["note"] in ("first", "second")

    run(main())
