"""The pools of a site's databases: the ORM, threads and tasks share them."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections
from django.utils import timezone

import django_connpool
from django_connpool import aio, scope
from tests import inside
from tests.aio.conftest import LOOPS, run_in
from tests.aio.helpers import at_rest, in_line, seen, until
from tests.cluster import Server
from tests.databases import Databases, connected, pid, value


def run(main: Any) -> Any:
    return run_in(LOOPS["asyncio"](), main)


def test_an_alias_has_the_pool_of_the_orm(databases: Databases, cluster: Server) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    first = pid(wrapper)
    wrapper.close()
    pool = aio.pools["spare"]

    async def main() -> None:
        assert await pool.fetchval("SELECT pg_backend_pid()") == first

    run(main())
    assert pool.sync is django_connpool.pools["spare"]
    assert pool is aio.pools["spare"]
    assert connected(cluster, wrapper) == 1


def test_only_pooled_databases_are_among_them(databases: Databases) -> None:
    databases.add()
    databases.add("plain", engine="django.db.backends.postgresql")
    assert "spare" in aio.pools
    assert "plain" not in aio.pools and "plain" not in [*aio.pools]
    assert len(aio.pools) == len([*aio.pools])
    with pytest.raises(KeyError, match="there is no database 'nowhere'"):
        aio.pools["nowhere"]


def test_what_is_kept_goes_on_to_the_pool_that_takes_its_place(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]
    before = pool.sync

    async def main() -> None:
        assert await pool.fetchval("SELECT 1") == 1
        await asyncio.to_thread(before.close)
        assert await pool.fetchval("SELECT 1") == 1

    run(main())
    assert pool.sync is not before
    assert value(wrapper, "SELECT 1") == 1


def test_who_stands_in_line_goes_on_to_the_pool_that_takes_its_place(
    databases: Databases,
) -> None:
    databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]
    before = pool.sync

    async def main() -> None:
        async with pool.acquire() as conn:
            waiting = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            await asyncio.to_thread(before.close)
            assert await waiting == 1
            await conn.execute("SELECT 1")

    run(main())
    assert pool.sync is not before


def test_what_a_wrapper_offers_is_taken_for_a_task(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]
    with scope("a request"):
        first = pid(wrapper)  # kept until the request ends, unless somebody waits

        async def main() -> None:
            assert await pool.fetchval("SELECT pg_backend_pid()") == first

        run(main())
        assert pid(wrapper) == first
    assert at_rest(pool, idle=1)


def test_what_a_thread_has_parked_is_taken_for_a_task(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]
    pids = set()
    for _ in range(5):  # a thread that answers one request after the other
        with scope("a request"):
            pids.add(pid(wrapper))
    assert inside.parked(wrapper) is not None

    async def main() -> None:
        pids.add(await pool.fetchval("SELECT pg_backend_pid()"))

    run(main())
    with scope("a request"):
        pids.add(pid(wrapper))
    assert len(pids) == 1


def test_a_thread_that_queries_waits_for_a_task(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]

    async def main() -> None:
        def query() -> Any:
            try:
                return value(connections["spare"], "SELECT 7")
            finally:
                connections["spare"].close()

        async with pool.acquire() as conn:
            waiting = asyncio.ensure_future(asyncio.to_thread(query))
            await in_line(pool, 1)
            await conn.execute("SELECT 1")
        assert await waiting == 7

    run(main())
    wrapper.close()


def test_the_session_is_as_django_sets_it_up(databases: Databases) -> None:
    databases.add(pool={"max_size": 1, "command_timeout": 0.1}, TIME_ZONE="Asia/Tokyo")
    pool = aio.pools["spare"]

    async def main() -> None:
        assert await pool.fetchval("SHOW TimeZone") == "Asia/Tokyo"
        now = await pool.fetchval("SELECT now()")
        assert isinstance(now, datetime.datetime)
        assert now.utcoffset() == datetime.timedelta(hours=9)
        assert abs(now - timezone.now()) < datetime.timedelta(minutes=5)
        assert await pool.fetchval("SELECT '{\"a\": 1}'::jsonb") == '{"a": 1}'  # Django's own way
        with pytest.raises(Exception, match="statement timeout"):
            await pool.fetchval("SELECT pg_sleep(20)")

    run(main())


def test_work_with_a_name_is_named_in_its_tasks(databases: Databases) -> None:
    databases.add(pool={"max_size": 2})
    pool = aio.pools["spare"]

    async def main() -> None:
        async with scope("nightly report"), pool.acquire():
            (loan,) = seen(pool)["loans"]
            assert loan["note"] == "nightly report"
            assert loan["thread"].startswith("task ")

    run(main())


def test_work_that_waits_for_itself_is_told_so(databases: Databases) -> None:
    databases.add(pool={"max_size": 1, "timeout": 30})
    pool = aio.pools["spare"]

    async def main() -> None:
        async with scope("in vain"), pool.acquire():
            with pytest.raises(django_connpool.PoolTimeout, match="Everybody waits for each other"):
                await pool.acquire()
        await until(lambda: at_rest(pool, idle=1))

    run(main())


def test_tasks_that_work_are_not_taken_for_such_as_wait(databases: Databases) -> None:
    databases.add(pool={"max_size": 1, "timeout": 30})
    pool = aio.pools["spare"]

    async def main() -> None:
        async with scope("the holder"), pool.acquire():
            waiting = asyncio.ensure_future(pool.fetchval("SELECT 1"))
            await in_line(pool, 1)
            await asyncio.sleep(0.6)  # longer than the pool needs to see that all wait
            assert not waiting.done()
        assert await waiting == 1

    run(main())


@pytest.mark.django_db(transaction=True)
def test_the_orm_goes_on_through_its_threads() -> None:
    pool = aio.pools["default"]

    async def main() -> None:
        users = get_user_model().objects
        made = await users.acreate(username="seed")
        found = await pool.fetchrow("SELECT username FROM auth_user WHERE id = %s", [made.pk])
        assert found == ("seed",)
        await pool.execute("UPDATE auth_user SET first_name = %s", ["Ada"])
        assert (await users.aget(username="seed")).first_name == "Ada"
        # The thread in which Django queries lives on, and so would its loan, on offer.
        await sync_to_async(connections.close_all)()

    run(main())


def test_signals_of_a_wait_are_sent_in_the_task(databases: Databases) -> None:
    from django_connpool import signals

    databases.add(pool={"max_size": 1})
    pool = aio.pools["spare"]
    told: list[Any] = []

    def hear(sender: Any, **facts: Any) -> None:
        told.append((facts.get("waited", 0) > 0, asyncio.current_task()))

    signals.connection_waited.connect(hear)

    async def main() -> None:
        async def borrow() -> Any:
            async with pool.acquire():
                return asyncio.current_task()

        async with pool.acquire():
            waiting = asyncio.ensure_future(borrow())
            await in_line(pool, 1)
        task = await waiting
        assert (True, task) in told

    try:
        run(main())
    finally:
        signals.connection_waited.disconnect(hear)
