"""Forks, exits, and servers that go."""

from __future__ import annotations

import asyncio
import os

import psycopg
import pytest

from django_connpool import aio
from tests.aio.conftest import LOOPS, run_in
from tests.aio.helpers import at_rest, seen, until
from tests.cluster import Cluster
from tests.pool.real.helpers import run_python


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_begins_with_nothing_of_its_parents_tasks(dsn: str) -> None:
    said = run_python(
        """
        import asyncio, os, signal, sys, warnings
        from django_connpool import aio

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pool = aio.create_pool(sys.argv[1], max_size=2, timeout=10)

        async def ask(number):
            return await pool.fetchrow("SELECT %s::int, pg_backend_pid()", [number])

        def child():
            signal.alarm(30)
            async def main():
                rows = await asyncio.gather(*(ask(number) for number in range(20)))
                assert [row[0] for row in rows] == list(range(20))
                assert not {row[1] for row in rows} & pids, "a session of the parent's"
            asyncio.set_event_loop(None)
            asyncio.run(main())
            os._exit(0)

        async def main():
            global pids
            asyncio.get_running_loop().slow_callback_duration = 60  # of which dev mode warns
            await pool
            async with pool.acquire() as one, pool.acquire() as other:
                pids = {one.info.backend_pid, other.info.backend_pid}
                waiting = [asyncio.ensure_future(ask(number)) for number in range(5)]
                await asyncio.sleep(0.05)
                pid = os.fork()
                if not pid:
                    try:
                        child()
                    except BaseException:
                        import traceback
                        traceback.print_exc()
                    os._exit(1)
                await one.execute("SELECT 1")
                status = await asyncio.to_thread(os.waitpid, pid, 0)
                assert status[1] == 0, status
                await other.execute("SELECT 1")
            rows = await asyncio.gather(*waiting)
            assert [row[0] for row in rows] == list(range(5))
            assert {row[1] for row in rows} <= pids
            await pool.close()
            print("whole")

        asyncio.run(main())
        """,
        dsn,
        warnings="ignore",
    )
    assert said == "whole\n"


@pytest.mark.e2e
@pytest.mark.parametrize("way", ["loans out", "in line", "interrupted"])
def test_a_process_ends_at_once_whatever_its_tasks_are_at(way: str, dsn: str) -> None:
    said = run_python(
        """
        import asyncio, logging, os, signal, sys, threading
        from django_connpool import aio

        logging.getLogger("django_connpool").addHandler(logging.NullHandler())
        pool = aio.create_pool(sys.argv[1], max_size=1, timeout=60)
        way = sys.argv[2]

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60  # of which dev mode warns
            await pool
            conn = await pool.acquire()
            if way == "in line":
                for _ in range(3):
                    asyncio.ensure_future(pool.fetchval("SELECT 1"))
                await asyncio.sleep(0.05)
            if way == "interrupted":
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                await conn.execute("SELECT pg_sleep(60)")
            print("over")

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("over")
        """,
        dsn,
        way,
        warnings="default",
    )
    assert said == "over\n"


@pytest.mark.e2e
@pytest.mark.parametrize("kind", LOOPS)
def test_a_server_that_goes_and_comes_back_costs_no_slot(
    kind: str, throwaway_cluster: Cluster
) -> None:
    pool = aio.create_pool(throwaway_cluster.dsn(), max_size=3, timeout=30, outage_patience=30)

    async def main() -> None:
        async with pool:
            working = [asyncio.ensure_future(pool.fetchval("SELECT pg_sleep(60)")) for _ in "ab"]
            await until(lambda: seen(pool)["in_use"] == 2)
            conn = await pool.acquire()
            await asyncio.to_thread(throwaway_cluster.stop, "immediate")
            for task in working:
                with pytest.raises(psycopg.OperationalError):
                    await task
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("SELECT 1")
            await pool.release(conn)
            asked = [asyncio.ensure_future(pool.fetchval("SELECT 1")) for _ in range(10)]
            await asyncio.sleep(0.1)
            await asyncio.to_thread(throwaway_cluster.start)
            assert await asyncio.gather(*asked) == [1] * 10
            await until(lambda: at_rest(pool))
            assert seen(pool)["size"] <= 3

    run_in(LOOPS[kind](), main())


def test_it_is_used_without_django(dsn: str) -> None:
    said = run_python(
        """
        import asyncio, sys
        from django_connpool import aio

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60  # of which dev mode warns
            async with aio.create_pool(sys.argv[1], max_size=1) as pool:
                print(await pool.fetchval("SELECT 'served'"))

        asyncio.run(main())
        assert "django.db" not in sys.modules
        """,
        dsn,
    )
    assert said == "served\n"
