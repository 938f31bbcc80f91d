"""What a task does to a session nobody else sees, and what both worlds share stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg.types.string import StrDumper, TextLoader

from tests import inside
from tests.aio.conftest import LOOPS, MakePool, Run, run_in
from tests.aio.helpers import at_rest, pid, until
from tests.pool.real.helpers import until_known


async def executed(conn: Any) -> None:
    await conn.execute("SET work_mem = '9MB'")


async def by_a_cursor(conn: Any) -> None:
    async with conn.cursor() as cursor:
        await cursor.execute("SET work_mem = '9MB'")


async def by_a_cursor_of_ones_own(conn: Any) -> None:
    await psycopg.AsyncCursor(conn).execute("SET work_mem = '9MB'")


async def by_another_class_of_cursors(conn: Any) -> None:
    conn.cursor_factory = psycopg.AsyncClientCursor
    await conn.execute("SET work_mem = '9MB'")


async def many(conn: Any) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany("SELECT set_config('work_mem', %s, false)", [("9MB",)] * 2)


async def in_a_pipeline(conn: Any) -> None:
    async with conn.pipeline():
        await conn.execute("SET work_mem = '9MB'")


async def in_a_transaction(conn: Any) -> None:
    async with conn.transaction():
        await conn.execute("SET work_mem = '9MB'")


async def by_streaming(conn: Any) -> None:
    async with conn.cursor() as cursor:
        async for _ in cursor.stream("SELECT set_config('work_mem', '9MB', false)"):
            pass


WAYS = [
    *(executed, by_a_cursor, by_a_cursor_of_ones_own, by_another_class_of_cursors),
    *(many, in_a_pipeline, in_a_transaction, by_streaming),
]


@pytest.mark.parametrize("way", WAYS)
def test_whatever_way_a_task_changes_a_session_the_next_finds_it_clean(
    way: Callable[[Any], Awaitable[None]], make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)
    until_known(pool.sync)

    async def main() -> None:
        async with pool.acquire() as conn:
            first = await pid(conn)
            before = await (await conn.execute("SHOW work_mem")).fetchone()
            await way(conn)
            assert await (await conn.execute("SHOW work_mem")).fetchone() == ("9MB",)
        with pool.sync.connection() as there:
            assert there.info.backend_pid == first
            assert there.execute("SHOW work_mem").fetchone() == before != ("9MB",)
            there.execute("SET work_mem = '8MB'")
        async with pool.acquire() as conn:
            assert await pid(conn) == first
            assert await (await conn.execute("SHOW work_mem")).fetchone() == before

    run(main())


def test_a_session_that_is_left_as_it_was_is_not_cleaned(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)
    until_known(pool.sync)

    async def main() -> None:
        before = pool.sync.get_stats()["sessions_cleaned"]
        async with pool.transaction() as conn:
            await conn.execute("SELECT %s::text", ["seed"])
        assert await pool.fetch("SELECT 1") == [(1,)]
        assert pool.sync.get_stats()["sessions_cleaned"] == before

    run(main())


def test_locks_channels_cursors_and_tables_of_a_task_are_gone(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            await conn.execute("SELECT pg_advisory_lock(7411)")
            await conn.execute("LISTEN aio_channel")
            await conn.execute("CREATE TEMP TABLE aio_temp (a int)")
            cursor = conn.cursor("aio_cursor", withhold=True)
            await cursor.execute("SELECT generate_series(1, 10)")
            assert await cursor.fetchone() == (1,)
        left = await pool.fetchrow(
            "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            "  AND pid = pg_backend_pid()), (SELECT count(*) FROM pg_listening_channels()),"
            " (SELECT count(*) FROM pg_cursors WHERE name = 'aio_cursor'),"
            " to_regclass('aio_temp')"
        )
        assert left == (0, 0, 0, None)
        await cursor.close()  # sends nothing
        with pytest.raises(psycopg.OperationalError, match="given back"):
            await cursor.fetchone()

    run(main())


def test_a_cursor_of_a_loan_that_is_over_says_so(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            cursor = conn.cursor()
            await cursor.execute("SELECT 1")
        async with pool.acquire():
            with pytest.raises(psycopg.OperationalError, match="given back"):
                await cursor.execute("SELECT 2")
        await cursor.close()

    run(main())


def test_sequences_of_an_earlier_loan_are_not_seen(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)
    until_known(pool.sync)  # or each session is cleaned

    async def main() -> None:
        await pool.execute("CREATE TABLE IF NOT EXISTS aio_serial (id serial, a int)")
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO aio_serial (a) VALUES (1)")
            await conn.execute("SELECT lastval()")
        for begin in ("SELECT 1", "BEGIN"):
            async with pool.acquire() as conn:
                await conn.execute(begin)
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                    await conn.execute("SELECT lastval()")
                await conn.rollback()
        await pool.execute("DROP TABLE aio_serial")

    run(main())


def test_both_worlds_know_of_the_same_prepared_statements(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)
    prepared = "SELECT count(*) FROM pg_prepared_statements"

    async def main() -> None:
        async with pool.acquire() as conn:
            for _ in range(7):
                await conn.execute("SELECT %s::int + 1", [1])
        with pool.sync.connection() as there:
            there.autocommit = True
            for _ in range(7):  # the same plan: not prepared once more under its name
                there.execute("SELECT %s::int + 1", [1])
            for _ in range(7):
                there.execute("SELECT %s::int + 2", [1])
            assert there.execute(prepared).fetchone() == (2,)
        async with pool.acquire() as conn:
            for number in (1, 2):
                await conn.execute(f"SELECT %s::int + {number}", [1])
            assert await (await conn.execute(prepared)).fetchone() == (2,)
            conn.prepare_threshold = 0
            conn.prepared_max = 3
        with pool.sync.connection() as there:
            assert (there.prepare_threshold, there.prepared_max) == (5, 100)

    run(main())


def test_adapters_of_a_task_are_its_loans(make_pool: MakePool, run: Run) -> None:
    class Shouting(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.upper())

    class Twice(TextLoader):
        def load(self, data: Any) -> Any:
            return str(super().load(data)) * 2

    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            conn.adapters.register_dumper(str, Shouting)
            conn.adapters.register_loader("text", Twice)
            said = await (await conn.execute("SELECT %s::text", ["a"])).fetchone()
            assert said == ("AA",)
        assert await pool.fetchval("SELECT %s::text", ["a"]) == "a"
        with pool.sync.connection() as there:
            assert there.execute("SELECT %s::text", ["a"]).fetchone() == ("a",)

    run(main())


def test_a_task_finds_a_session_as_it_was_born(make_pool: MakePool, run: Run) -> None:
    heard: list[str] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.execute("SET TIME ZONE 'Asia/Tokyo'")
        conn.commit()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))

    pool = make_pool(max_size=1, configure=configure, kwargs={"row_factory": psycopg.rows.dict_row})

    async def main() -> None:
        assert await pool.fetchrow("SHOW TIME ZONE") == {"TimeZone": "Asia/Tokyo"}
        async with pool.transaction() as conn:
            level = await (await conn.execute("SHOW transaction_isolation")).fetchone()
            assert level == {"transaction_isolation": "serializable"}
        mine: list[Any] = []
        async with pool.acquire() as conn:
            conn.add_notice_handler(mine.append)
            conn.row_factory = psycopg.rows.tuple_row
            await conn.execute("DO $$ BEGIN RAISE NOTICE 'one'; END $$")
        async with pool.acquire() as conn:
            await conn.execute("DO $$ BEGIN RAISE NOTICE 'two'; END $$")
            assert conn.row_factory is psycopg.rows.dict_row
        assert heard == ["one", "two"]
        assert len(mine) == 1

    run(main())


def test_notifications_reach_who_listens_and_nobody_later(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.acquire() as conn:
            await conn.execute("LISTEN aio_news")
            await conn.execute("NOTIFY aio_news, 'first'")
            heard = [each.payload async for each in conn.notifies(timeout=10, stop_after=1)]
            assert heard == ["first"]
            conn.add_notify_handler(lambda each: heard.append(each.payload))
            await conn.execute("NOTIFY aio_news, 'second'")
            assert heard == ["first", "second"]
        with pool.sync.connection() as there:
            there.execute("NOTIFY aio_news, 'third'")
            there.commit()
            assert [*there.notifies(timeout=0)] == []
        assert heard == ["first", "second"]

    run(main())


def test_copies_and_values_go_through(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        async with pool.transaction() as conn:
            await conn.execute("CREATE TEMP TABLE aio_copied (a int, b jsonb) ON COMMIT DROP")
            async with conn.cursor().copy("COPY aio_copied FROM STDIN") as copy:
                await copy.write_row([1, Jsonb({"a": [1]})])
            rows = await (await conn.execute("SELECT * FROM aio_copied")).fetchall()
            assert rows == [(1, {"a": [1]})]

    run(main())


def test_a_statement_of_another_task_is_ended_when_its_connection_is_given_back(
    make_pool: MakePool, run: Run, logged: Callable[[str], list[str]]
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        for _ in range(10):  # a connection closed meanwhile may end the process
            conn = await pool.acquire()
            task = asyncio.ensure_future(conn.execute("SELECT pg_sleep(60)"))
            other = asyncio.ensure_future(conn.execute("SELECT 1"))
            await until(lambda conn=conn: conn.pgconn.transaction_status == 1)
            await pool.release(conn)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await task
            with pytest.raises(psycopg.OperationalError, match="has been given back"):
                await other
            assert await pool.fetchval("SELECT 1") == 1

    run(main())
    assert "in the middle of a statement by task" in logged("given back")[0]
    assert pool.sync.get_stats()["connections_num"] == 1


def test_where_a_mistake_is_an_error_giving_back_in_a_statement_is_one(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1, strict=True)

    async def main() -> None:
        conn = await pool.acquire()
        task = asyncio.ensure_future(conn.execute("SELECT pg_sleep(60)"))
        await until(lambda: conn.pgconn.transaction_status == 1)
        with pytest.raises(psycopg.ProgrammingError, match="in the middle of a statement"):
            await pool.release(conn)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await task
        assert await pool.fetchval("SELECT 1") == 1

    run(main())


def test_who_hears_notifications_stops_when_the_connection_is_given_back(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1)

    async def main() -> None:
        conn = await pool.acquire()
        await conn.execute("LISTEN aio_left")

        async def hear() -> None:
            async for _ in conn.notifies():
                raise AssertionError("of a later loan")

        hearing = asyncio.ensure_future(hear())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = conn.info.backend_pid
        await pool.release(conn)
        with pytest.raises(psycopg.OperationalError):
            await hearing
        assert await pool.fetchval("SELECT pg_backend_pid()") != first
        await pool.execute("NOTIFY aio_left")

    run(main())
    assert pool.sync.get_stats()["connections_lost"] == 0


def test_limits_of_a_statement_and_of_a_connections_uses_hold_for_tasks(
    make_pool: MakePool, run: Run
) -> None:
    pool = make_pool(max_size=1, command_timeout=0.1, max_uses=2)

    async def main() -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await pool.execute("SELECT pg_sleep(60)")
        await pool.execute("SET statement_timeout = 0")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await pool.execute("SELECT pg_sleep(60)")
        await until(lambda: at_rest(pool))
        assert pool.sync.get_stats()["connections_num"] == 2

    run(main())


def test_a_check_that_ends_its_thread_leaves_no_task_waiting(make_pool: MakePool, run: Run) -> None:
    is_over = False

    def check(conn: Any) -> None:
        if not is_over:
            raise SystemExit

    pool = make_pool(max_size=1, check=check)

    async def main() -> None:
        nonlocal is_over
        with pytest.raises(SystemExit):  # here: a task that ended with it would end the loop
            await pool.fetchval("SELECT 1")
        is_over = True
        assert await pool.fetchval("SELECT 1") == 1

    run(main())


@pytest.mark.parametrize("option", ["check", "reset", "configure"])
def test_functions_of_the_users_are_called_in_a_thread(
    option: str, make_pool: MakePool, run: Run
) -> None:
    loops: list[Any] = []

    def called(conn: psycopg.Connection[Any]) -> None:
        loops.append(inside.running_loop())
        conn.execute("SELECT 1")
        conn.rollback()

    pool = make_pool(max_size=1, **{option: called})

    async def main() -> None:
        for number in range(3):
            assert await pool.fetchval("SELECT %s::int", [number]) == number

    run(main())
    assert loops and not any(loops)


def test_each_session_may_be_cleaned_or_asked_at_each_loan(make_pool: MakePool, run: Run) -> None:
    pool = make_pool(max_size=2, check="always", reset="always")

    async def main() -> None:
        asked = [pool.fetchval("SELECT %s::int", [number]) for number in range(50)]
        assert await asyncio.gather(*asked) == [*range(50)]
        assert at_rest(pool)

    run(main())


def test_a_dead_connection_costs_a_task_nothing(
    make_pool: MakePool, cluster: Any, app: str
) -> None:
    pool = make_pool(max_size=2)

    async def main() -> None:
        async with pool.acquire(), pool.acquire():
            pass
        assert at_rest(pool, idle=2)
        cluster.terminate(application_name=app)
        for number in range(4):
            assert await pool.fetchval("SELECT %s::int", [number]) == number

    run_in(LOOPS["asyncio"](), main())
