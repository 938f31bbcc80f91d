"""What a task gets, and how it gives it back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from django_connpool import PoolClosed, PoolTimeout, TooManyRequests, aio
from tests.aio.conftest import MakePool, Run, in_each_loop
from tests.aio.helpers import at_rest, in_line, pid, seen, until


@in_each_loop
def test_a_block_has_an_async_connection_in_autocommit_mode(make_pool: MakePool, run: Run) -> None:
    pool = make_pool()

    async def main() -> None:
        async with pool.acquire() as conn:
            assert isinstance(conn, psycopg.AsyncConnection)
            assert conn.autocommit
            assert await (await conn.execute("SELECT %s::int", [7])).fetchone() == (7,)
            assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert seen(pool)["in_use"] == 1
        assert at_rest(pool, idle=1)

    run(main())


def test_one_is_borrowed_and_released_by_hand(make_pool: MakePool, run: Run) -> None:
    pool = make_pool()

    async def main() -> None:
        conn = await pool.acquire()
        await conn.execute("SELECT 1")
        await pool.release(conn)
        assert at_rest(pool, idle=1)
        with pytest.raises(ValueError, match="given back already"):
            await pool.release(conn)
        with pytest.raises(psycopg.OperationalError, match="given back to its pool"):
            await conn.execute("SELECT 1")
        assert conn.closed

    run(main())


def test_another_pools_connection_is_refused(make_pool: MakePool, run: Run) -> None:
    pool, other = make_pool(), make_pool(name="other")

    async def main() -> None:
        async with other.acquire() as conn:
            with pytest.raises(ValueError, match="doesn't come from this pool"):
                await pool.release(conn)
            await conn.execute("SELECT 1")

    run(main())


def test_threads_and_tasks_take_turns_on_one_session(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            first = await pid(conn)
        with pool.sync.connection() as there:
            assert there.info.backend_pid == first
            assert there.execute("SELECT 1").fetchone() == (1,)
        async with pool.acquire() as conn:
            assert await pid(conn) == first

    run(main())


@in_each_loop
def test_one_statement_needs_no_block(make_pool: MakePool, run: Run) -> None:
    pool = make_pool()

    async def main() -> None:
        assert await pool.execute("CREATE TEMP TABLE seed (a int)") == "CREATE TABLE"
        assert await pool.fetch("SELECT generate_series(1, 3)") == [(1,), (2,), (3,)]
        assert await pool.fetch("SELECT %s AS a", [5], row_factory=dict_row) == [{"a": 5}]
        assert await pool.fetchrow("SELECT 1, 2") == (1, 2)
        assert await pool.fetchrow("SELECT 1 WHERE false") is None
        assert await pool.fetchval("SELECT %(one)s::int", {"one": 1}) == 1
        assert await pool.fetchval("SELECT 1 WHERE false") is None
        assert await pool.fetch("SET work_mem = '5MB'") == []
        assert await pool.fetchrow("SET work_mem = '5MB'") is None

    run(main())
    assert at_rest(pool)


def test_a_block_of_a_transaction_commits_or_rolls_back(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        await pool.execute("DROP TABLE IF EXISTS aio_blocks")
        await pool.execute("CREATE TABLE aio_blocks (a int)")
        async with pool.transaction() as conn:
            await conn.execute("INSERT INTO aio_blocks VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction() as conn:
                await conn.execute("INSERT INTO aio_blocks VALUES (2)")
                raise ZeroDivisionError
        assert await pool.fetch("SELECT a FROM aio_blocks") == [(1,)]
        await pool.execute("DROP TABLE aio_blocks")

    run(main())


def test_what_a_block_leaves_open_is_ended_as_psycopg_ends_it(
    make_pool: MakePool, run: Run, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        await pool.execute("DROP TABLE IF EXISTS aio_open")
        await pool.execute("CREATE TABLE aio_open (a int)")
        async with pool.acquire() as conn:
            await conn.execute("BEGIN")
            await conn.execute("INSERT INTO aio_open VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire() as conn:
                await conn.set_autocommit(False)
                await conn.execute("INSERT INTO aio_open VALUES (2)")
                raise ZeroDivisionError
        assert at_rest(pool, idle=1)
        assert await pool.fetch("SELECT a FROM aio_open") == [(1,)]
        assert not logged("given back in")

        conn = await pool.acquire()
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO aio_open VALUES (3)")
        await pool.release(conn)
        assert await pool.fetch("SELECT a FROM aio_open") == [(1,)]
        await pool.execute("DROP TABLE aio_open")

    run(main())
    assert "a connection was given back in a transaction by task " in logged("given back in")[0]


def test_where_a_mistake_is_an_error_the_task_gets_it(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(strict=True)

    async def main() -> None:
        conn = await pool.acquire()
        await conn.execute("BEGIN")
        with pytest.raises(psycopg.ProgrammingError, match="given back in a transaction"):
            await pool.release(conn)
        assert at_rest(pool, idle=1)

    run(main())


def test_a_task_waits_its_turn_and_gives_up_in_time(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire():
            with pytest.raises(PoolTimeout, match="On loan to 'task the holder'") as error:
                await pool.acquire(timeout=0.01)
            assert error.value.numbers["waited"] == 0.01
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0)
        assert at_rest(pool, idle=1)

    async def named() -> None:
        await asyncio.get_running_loop().create_task(main(), name="the holder")

    run(named())
    assert pool.sync.get_stats()["requests_timeouts"] == 2


def test_those_who_are_too_many_are_refused(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1, max_waiting=1)

    async def main() -> None:
        async with pool.acquire():
            waiting = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            with pytest.raises(TooManyRequests):
                await pool.acquire()
        assert await waiting == 1

    run(main())


@in_each_loop
def test_who_comes_first_is_served_first_be_it_a_task_or_a_thread(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)
    served: list[str] = []

    async def task(name: str) -> None:
        async with pool.acquire():
            served.append(name)

    def thread(name: str) -> None:
        with pool.sync.connection():
            served.append(name)

    async def main() -> None:
        others: list[Any] = []
        async with pool.acquire():
            for number in range(6):
                if number % 2:
                    others.append(asyncio.to_thread(thread, f"thread {number}"))
                    others[-1] = asyncio.ensure_future(others[-1])
                else:
                    others.append(asyncio.ensure_future(task(f"task {number}")))
                await in_line(pool, number + 1)
        await asyncio.gather(*others)

    run(main())
    kinds = ("task", "thread")
    assert served == [f"{kinds[number % 2]} {number}" for number in range(6)]


def test_a_waiting_task_holds_up_neither_its_loop_nor_a_thread(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire():
            before = set(threading.enumerate())
            waiting = [asyncio.ensure_future(pool.fetchval("SELECT 1")) for _ in range(50)]
            await in_line(pool, 50)  # which is the loop going on
            assert not {one for one in set(threading.enumerate()) - before if one.is_alive()}
        assert await asyncio.gather(*waiting) == [1] * 50

    run(main())
    assert pool.sync.get_stats()["pool_size"] == 1


@in_each_loop
def test_never_more_than_max_size_whoever_asks(
    make_pool: MakePool, run: Run, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=2)

    async def main() -> None:
        def work() -> None:
            for _ in range(20):
                with pool.sync.connection() as conn:
                    conn.execute("SELECT 1")

        tasks = [pool.fetchval("SELECT %s::int", [number]) for number in range(100)]
        threads = [asyncio.to_thread(work) for _ in range(4)]
        results = await asyncio.gather(*tasks, *threads)
        assert results[:100] == list(range(100))

    run(main())
    assert backends() == pool.sync.get_stats()["pool_size"] <= 2


def test_two_loops_in_two_threads_share_a_pool(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    results: list[int] = []

    async def main() -> None:
        for number in range(30):
            results.append(await pool.fetchval("SELECT %s::int", [number]))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([*range(30)] * 2)
    assert at_rest(pool, idle=1)


def test_a_closed_pool_says_so_to_those_in_line(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            waiting = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            await pool.close()
            with pytest.raises(PoolClosed):
                await waiting
            await conn.execute("SELECT 1")
        with pytest.raises(PoolClosed):
            await pool.acquire()
        await until(lambda: not seen(pool)["size"])

    run(main())


def test_a_pool_of_its_own_is_opened_by_its_block_or_by_awaiting_it(dsn: str, run: Run) -> None:
    async def main() -> None:
        async with aio.create_pool(dsn, min_size=1, max_size=1) as pool:
            await pool.open(wait=True)
            assert at_rest(pool, idle=1)
            assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises(PoolClosed, match="is closed"):
            await pool.fetch("SELECT 1")
        pool = aio.create_pool(dsn, max_size=1, command_timeout=0.1)
        with pytest.raises(PoolClosed, match="not open yet"):
            await pool.fetch("SELECT 1")
        assert await pool is pool
        with pytest.raises(psycopg.errors.QueryCanceled):
            await pool.fetch("SELECT pg_sleep(10)")
        await pool.close()
        assert "aio" in repr(pool)

    run(main())


def test_what_a_pool_cannot_do_with_is_refused() -> None:
    async def configure(conn: Any) -> None: ...

    with pytest.raises(TypeError, match="configure must be a plain function"):
        aio.create_pool("", configure=configure)
    with pytest.raises(TypeError, match="connection_class"):
        aio.create_pool("", connection_class=psycopg.AsyncConnection)
    with pytest.raises(ValueError, match="max_size"):
        aio.create_pool("", max_size=-1)


def test_a_server_that_says_no_is_quoted_at_once(make_pool: MakePool, run: Run) -> None:
    pool = make_pool("host=127.0.0.1 port=1 dbname=x", outage_patience=0)

    async def main() -> None:
        with pytest.raises(psycopg.OperationalError, match="refused"):
            await pool.acquire()

    run(main())


def test_without_a_loop_of_asyncios_the_error_says_so(make_pool: MakePool) -> None:
    asked = make_pool().acquire().__await__()
    with pytest.raises(RuntimeError, match="with anyio choose its asyncio backend"):
        next(asked)  # as trio would


def test_a_block_that_is_under_way_is_not_begun_again(make_pool: MakePool, run: Run) -> None:
    pool = make_pool()

    async def main() -> None:
        block = pool.acquire()
        async with block:
            with pytest.raises(RuntimeError, match="under way already"):
                await block.__aenter__()
        async with block as conn:
            await conn.execute("SELECT 1")

    run(main())


@pytest.mark.skipif(
    tuple(map(int, psycopg.__version__.split(".")[:2])) < (3, 3), reason="psycopg does not ask"
)
def test_closing_gives_back_where_the_pool_says_so(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(close_returns=True)

    async def main() -> None:
        conn = await pool.acquire()
        await conn.close()
        assert at_rest(pool, idle=1)

    run(main())


def test_a_connection_that_its_borrower_closes_is_replaced(
    make_pool: MakePool, run: Run, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool()

    async def main() -> None:
        async with pool.acquire() as one, pool.acquire():
            await one.close()
        await until(lambda: at_rest(pool, idle=1))  # the other is not condemned
        assert await pool.fetchval("SELECT 1") == 1

    run(main())
    assert pool.sync.snapshot()["closed_for"]["unusable"] == 1
