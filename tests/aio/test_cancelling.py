"""Whatever a task waits for, it may be cancelled there, and its loop may go away."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest

from django_connpool import aio
from tests import inside
from tests.aio.conftest import LOOPS, MakePool, Run, in_each_loop
from tests.aio.helpers import at_rest, in_line, pid, seen, until
from tests.cluster import Server
from tests.pool.real.helpers import until_known
from tests.proxy import Proxy

LONG = "SELECT pg_sleep(60)"


def is_working(cluster: Server, app: str) -> Callable[[], bool]:
    """Whether the server works at a statement of the test's."""

    def ask() -> bool:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            found = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
                " AND state = 'active'",
                [app],
            ).fetchone()
        return bool(found and found[0])

    return ask


async def cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_each_loop
def test_a_cancelled_wait_gives_its_place_up(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire():
            first = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            second = asyncio.ensure_future(pool.fetchval("SELECT 2"))
            await in_line(pool, 2)
            await cancelled(first)
            await in_line(pool, 1)
        assert await second == 2
        assert at_rest(pool, idle=1)

    run(main())


@in_each_loop
def test_what_is_handed_to_a_task_that_is_cancelled_goes_to_the_next(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire():
            first = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            second = asyncio.ensure_future(pool.fetchval("SELECT 2"))
            await in_line(pool, 2)
        # It has been given back this moment, to the first, which has not gone on yet.
        assert seen(pool)["waiting"] == 1
        first.cancel()
        assert await second == 2
        with pytest.raises(asyncio.CancelledError):
            await first
        assert at_rest(pool, idle=1)

    run(main())


def test_a_wait_ends_with_the_time_of_its_block(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.fetchval("SELECT 1"), 0.02)
            assert not seen(pool)["waiting"]
        assert at_rest(pool, idle=1)

    run(main())


@in_each_loop
def test_the_server_is_told_of_a_cancelled_statement(
    make_pool: MakePool, run: Run, cluster: Server, app: str
) -> None:
    pool = make_pool(max_size=1)
    works = is_working(cluster, app)

    async def main() -> None:
        async with pool.acquire() as conn:
            first = await pid(conn)
        task = asyncio.ensure_future(pool.fetchval(LONG))
        await until(works)
        await cancelled(task)
        await until(lambda: not works())
        assert at_rest(pool, idle=1)
        async with pool.acquire() as conn:
            assert await pid(conn) == first

    run(main())


@in_each_loop
def test_a_cancelled_transaction_is_rolled_back(
    make_pool: MakePool, run: Run, cluster: Server, app: str, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool(max_size=1)
    works = is_working(cluster, app)

    async def in_a_transaction() -> None:
        async with pool.transaction() as conn:
            await conn.execute("CREATE TABLE aio_never (a int)")
            await conn.execute(LONG)

    async def by_hand() -> None:
        async with pool.acquire() as conn:
            await conn.execute("BEGIN")
            await conn.execute("CREATE TABLE aio_never (a int)")
            await conn.execute(LONG)

    async def main() -> None:
        for work in (in_a_transaction, by_hand):
            task = asyncio.ensure_future(work())
            await until(works)
            await cancelled(task)
            await until(lambda: at_rest(pool, idle=1))
            assert await pool.fetchval("SELECT to_regclass('aio_never')") is None

    run(main())
    assert not logged("")


@in_each_loop
def test_in_a_scope_of_anyios_the_session_comes_back_and_is_whole(
    kind: str, make_pool: MakePool, logged: Callable[[str], list[str]]
) -> None:
    """There each await of the task is cancelled, until it has left the scope."""
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            first = await pid(conn)
        for _ in range(3):
            with anyio.move_on_after(0.05):
                async with pool.transaction() as conn:
                    await conn.execute(LONG)
            with anyio.move_on_after(0.05):
                await pool.fetchval(LONG)
            async with pool.acquire() as conn:
                assert await pid(conn) == first
                with anyio.move_on_after(0.01):
                    await pool.acquire()
        assert at_rest(pool, idle=1)

    anyio.run(main, backend_options={"use_uvloop": kind == "uvloop"})
    assert not logged("")


def test_a_task_group_of_anyios_that_fails_loses_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)

    async def fail() -> None:
        async with pool.acquire():
            await asyncio.sleep(0.02)
            raise ZeroDivisionError

    async def main() -> None:
        with suppress(Exception):  # a group of them
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(pool.fetchval, LONG)
                group.start_soon(fail)
                await anyio.sleep(0.05)
                raise ZeroDivisionError
        await until(lambda: at_rest(pool))
        assert await pool.fetchval("SELECT 1") == 1

    anyio.run(main)


def test_a_statement_that_cannot_be_ended_costs_the_connection_and_not_the_place(
    make_pool: MakePool, run: Run, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.hurry_ends_of_statements(monkeypatch, 0.2)
    pool = make_pool(proxy.dsn(), max_size=1)

    async def main() -> None:
        await pool.fetchval("SELECT 1")
        async with pool.acquire() as conn:
            task = asyncio.ensure_future(conn.execute("SELECT 1"))
            proxy.blackhole()
            await asyncio.sleep(0)
            await cancelled(task)
        proxy.allow()
        assert await pool.fetchval("SELECT 2") == 2

    run(main())


def test_a_cancelled_check_gives_up_what_it_looks_at(make_pool: MakePool, run: Run) -> None:
    may_go, began = threading.Event(), threading.Event()

    def check(conn: Any) -> None:
        began.set()
        may_go.wait(30)

    pool = make_pool(max_size=1, check=check)

    async def main() -> None:
        may_go.set()
        await pool.fetchval("SELECT 1")
        may_go.clear(), began.clear()
        task = asyncio.ensure_future(pool.fetchval("SELECT 1"))
        await until(began.is_set)
        await cancelled(task)
        assert seen(pool)["idle"] == 0  # the check is still at it
        may_go.set()
        await until(lambda: at_rest(pool, idle=1))
        assert await pool.fetchval("SELECT 3") == 3

    run(main())


def test_a_cancelled_return_comes_to_its_end(make_pool: MakePool, run: Run) -> None:
    may_go, began = threading.Event(), threading.Event()

    def reset(conn: Any) -> None:
        began.set()
        may_go.wait(30)

    pool = make_pool(max_size=1, reset=reset)

    async def main() -> None:
        task = asyncio.ensure_future(pool.fetchval("SELECT 1"))
        await until(began.is_set)
        await cancelled(task)
        may_go.set()
        await until(lambda: at_rest(pool, idle=1))
        assert await pool.fetchval("SELECT 2") == 2

    run(main())


def run_in_a_loop_that_is_closed(kind: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it; what its loop's tasks are at then only the garbage collector ends."""
    loop = LOOPS[kind]()
    loop.set_exception_handler(lambda *_: None)  # that tasks were destroyed is known
    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()


def in_a_circle(task: asyncio.Future[Any]) -> None:
    """Keep it, where only the garbage collector finds it."""
    circle: list[Any] = [task]
    circle.append(circle)


def is_served(pool: aio.Pool) -> bool:
    with pool.sync.connection(20) as conn:
        return bool(conn.execute("SELECT 1").fetchone() == (1,))


@in_each_loop
def test_a_loop_that_is_closed_leaves_nothing(make_pool: MakePool, kind: str) -> None:
    pool = make_pool(max_size=1)

    async def hold() -> None:
        async with pool.acquire():
            await asyncio.sleep(3600)

    async def main() -> None:
        in_a_circle(asyncio.ensure_future(hold()))
        await until(lambda: seen(pool)["in_use"])
        for _ in range(3):
            in_a_circle(asyncio.ensure_future(pool.fetchval("SELECT 1")))
        await in_line(pool, 3)

    run_in_a_loop_that_is_closed(kind, main)
    # The block was left as its coroutine was collected, and so were the places in line.
    assert is_served(pool)
    assert at_rest(pool)


@in_each_loop
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_while_others_use_what_a_task_has_leaves_nothing(
    make_pool: MakePool, kind: str, cluster: Server, app: str
) -> None:
    pool = make_pool(max_size=1)

    async def hold() -> None:
        async with pool.acquire() as conn:
            await asyncio.gather(conn.execute(LONG))

    async def main() -> None:
        in_a_circle(asyncio.ensure_future(hold()))
        await until(is_working(cluster, app))

    run_in_a_loop_that_is_closed(kind, main)
    assert is_served(pool)


@in_each_loop
def test_what_the_collector_ends_gives_back_what_it_has_changed(
    make_pool: MakePool, kind: str
) -> None:
    pool = make_pool(max_size=1)
    until_known(pool.sync)
    said: list[str] = []

    async def hold() -> None:
        async with pool.acquire() as conn:
            await conn.execute("SET work_mem = '9MB'")
            said.append("set")
            try:
                await asyncio.sleep(3600)
            finally:
                looking = threading.Thread(target=inside.tick, args=[pool.sync])
                looking.start()
                looking.join(30)
                said.append(conn.info.transaction_status.name)

    async def main() -> None:
        in_a_circle(asyncio.ensure_future(hold()))
        await until(lambda: bool(said))

    run_in_a_loop_that_is_closed(kind, main)
    assert said == ["set", "IDLE"]
    assert pool.sync.get_stats()["loans_reclaimed"] == 0
    with pool.sync.connection(20) as conn:
        assert conn.execute("SHOW work_mem").fetchone() != ("9MB",)


@in_each_loop
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of psycopg's
def test_a_loop_that_is_closed_while_it_ends_a_statement_leaves_nothing(
    make_pool: MakePool, kind: str, cluster: Server, app: str
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        working = asyncio.ensure_future(pool.fetchval(LONG))
        await until(is_working(cluster, app))
        working.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run_in_a_loop_that_is_closed(kind, main)
    assert is_served(pool)


@in_each_loop
def test_a_loop_that_stands_still_holds_nobody_up_and_its_tasks_stand_in_line_again(
    make_pool: MakePool, kind: str
) -> None:
    pool = make_pool(max_size=1)
    until_known(pool.sync)  # or what it was handed would be closed, for it may be unclean
    loop = LOOPS[kind]()
    conn = pool.sync.getconn()

    async def begin() -> asyncio.Task[Any]:
        task = asyncio.ensure_future(pool.fetchval("SELECT 1"))
        await in_line(pool, 1)
        return task

    async def end() -> Any:
        await in_line(pool, 1)
        pool.sync.putconn(mine)
        return await asyncio.wait_for(task, 30)

    task = loop.run_until_complete(begin())
    pool.sync.putconn(conn)  # to a task whose loop does not run
    mine = pool.sync.getconn(20)
    assert loop.run_until_complete(end()) == 1
    loop.close()
    assert at_rest(pool, idle=1)
