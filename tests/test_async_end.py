"""How a request of async code ends: with the middleware, in a thread that goes with the request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import close_old_connections, connections, transaction
from django.http import HttpResponse
from django.test import AsyncRequestFactory

from django_connpool.middleware import ConnectionPoolMiddleware
from tests import inside
from tests.databases import DEADLINE, Databases, in_thread, on_loan, pid, value
from tests.pool.real.helpers import until_known


@pytest.fixture(params=["auto", "request"])
def spare(databases: Databases, request: pytest.FixtureRequest) -> Any:
    pool = {"max_size": 1, "timeout": DEADLINE, "release": request.param}
    wrapper = databases.add(pool=pool)
    until_known(wrapper.pool)
    return wrapper


def here() -> Any:
    return connections["spare"]


def mine() -> int:
    return pid(here())


def another() -> int:
    backend = mine()
    here().close()
    return backend


def in_a_block() -> int:
    with transaction.atomic(using="spare"):
        return mine()


async def asked(view: Callable[[], Awaitable[Any]]) -> Any:
    found = []

    async def get_response(request: Any) -> HttpResponse:
        found.append(await view())
        return HttpResponse()

    answer: Any = ConnectionPoolMiddleware(get_response)(AsyncRequestFactory().get("/page/"))
    await answer
    return found[0]


def served(work: Callable[[], Awaitable[Any]]) -> Any:
    """Do it as Django's handler does, which ends the request in the thread of its queries."""

    async def main() -> Any:
        async with ThreadSensitiveContext():
            try:
                return await work()
            finally:
                await sync_to_async(close_old_connections)()

    return asyncio.run(main())


def assert_all_is_back(wrapper: Any) -> None:
    inside.assert_states(wrapper.pool)
    assert on_loan(wrapper) == 0
    seen = wrapper.pool.get_stats()
    assert (seen["loans_reclaimed"], seen["connections_num"]) == (0, 1)


@pytest.mark.parametrize("query", [mine, in_a_block])
def test_others_have_it_as_soon_as_the_response_exists(
    spare: Any, query: Callable[[], int]
) -> None:
    async def work() -> None:
        backend = await asked(sync_to_async(query))
        seen = spare.pool.snapshot()
        assert (seen["idle"], seen["in_use"], seen["offered"], seen["loans"]) == (1, 0, 0, [])
        assert in_thread(another) == backend

    served(work)
    assert_all_is_back(spare)


def test_in_a_thread_that_waits_for_it_it_is_given_back(spare: Any) -> None:
    """As for async code in a sync command, or in a test."""

    async def work() -> None:
        async with ThreadSensitiveContext():
            await asked(sync_to_async(mine))

    async_to_sync(work)()
    assert here().offer is None
    assert_all_is_back(spare)


def test_in_a_thread_of_somebodys_own_it_is_given_back(spare: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        try:
            context: Any = ThreadSensitiveContext(executor=executor)
        except TypeError:
            pytest.skip("asgiref takes no executor yet")

        async def work() -> None:
            async with context:
                await asked(sync_to_async(mine))

        asyncio.run(work())
        assert executor.submit(lambda: here().offer).result(DEADLINE) is None
    assert_all_is_back(spare)


@pytest.mark.parametrize("thread_sensitive", [True, False])
def test_who_looks_at_the_connection_after_that_borrows_none(
    spare: Any, thread_sensitive: bool
) -> None:
    """A middleware above, while a slow client is sent its answer; or a job in a thread used."""

    def look() -> tuple[Any, bool]:
        return here().connection, here().is_usable()

    async def work() -> None:
        await asked(sync_to_async(mine, thread_sensitive=thread_sensitive))
        assert (await sync_to_async(look, thread_sensitive=thread_sensitive)())[0] is None
        assert on_loan(spare) == 0

    served(work)
    assert_all_is_back(spare)


def test_another_thread_begins_anew_where_others_have_what_it_was_left(spare: Any) -> None:
    """One that has not only this request's queries, and lives on."""

    def name() -> Any:
        return value(here(), "SHOW application_name")

    async def work() -> None:
        await asked(sync_to_async(mine, thread_sensitive=False))
        assert spare.pool.snapshot()["idle"] == 1  # from here on it is nobody's
        spare.settings_dict["OPTIONS"]["application_name"] = "databases-new"
        assert await sync_to_async(name, thread_sensitive=False)() == "databases-new"

    served(work)


def look() -> None:
    assert here().connection.info.backend_pid


def keep() -> None:
    here().ensure_connection()


def give_state() -> None:
    with here().cursor() as cursor:
        cursor.execute("SELECT 1")
        raw = here().connection
        cursor.execute("SET app.tenant = '7'")
    del raw


@pytest.mark.parametrize("job", [look, keep, give_state])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_a_view_leaves_behind_in_its_thread_keeps_nothing(
    spare: Any, job: Callable[[], None], is_cancelled: bool
) -> None:
    began, goes_on = threading.Event(), threading.Event()
    ended = []

    def do() -> None:
        began.set()
        assert goes_on.wait(DEADLINE)
        job()
        ended.append(job)

    async def view() -> Any:
        await sync_to_async(mine)()
        task = asyncio.create_task(sync_to_async(do)())
        assert await asyncio.to_thread(began.wait, DEADLINE)
        asyncio.get_running_loop().call_soon(goes_on.set)  # when the view has ended
        if not is_cancelled:
            return task
        task.cancel()
        await task

    async def work() -> None:
        try:
            task = await asked(view)
        except asyncio.CancelledError:
            assert is_cancelled and ended == [job], "what it does is not known, so it is waited for"
        else:
            await task

    served(work)
    assert ended == [job]
    assert_all_is_back(spare)
    tenant = in_thread(lambda: value(here(), "SELECT current_setting('app.tenant', true)"))
    assert tenant in (None, "")


def test_its_pool_can_be_closed_in_that_thread(spare: Any) -> None:
    async def work() -> None:
        await asked(sync_to_async(mine))
        await sync_to_async(lambda: here().close_pool())()
        assert await sync_to_async(lambda: here().connection)() is None

    pool = spare.pool
    served(work)
    assert pool.closed and pool.snapshot()["size"] == 0


def test_threads_that_share_the_wrapper_after_that_do_not_lose_the_connection(spare: Any) -> None:
    async def work() -> Any:
        await asked(sync_to_async(mine))
        return await sync_to_async(lambda: (here().inc_thread_sharing(), here())[1])()

    async def main() -> Any:
        async with ThreadSensitiveContext():
            wrapper = await work()

            def begin() -> None:
                with wrapper.cursor() as cursor:
                    cursor.execute("BEGIN")

            await asyncio.to_thread(begin)
            return wrapper

    wrapper = asyncio.run(main())
    with wrapper.cursor() as cursor:
        cursor.execute("ROLLBACK")
    wrapper.close()
    wrapper.dec_thread_sharing()
    assert_all_is_back(spare)


def test_a_close_that_somebody_has_put_on_the_wrapper_is_called_in_that_thread(spare: Any) -> None:
    closed = []

    def query() -> None:
        wrapper = here()
        pid(wrapper)
        close = wrapper.close
        wrapper.close = lambda: (closed.append(threading.get_ident()), close())

    async def work() -> int:
        await asked(sync_to_async(query))
        assert len(closed) == 1
        return await sync_to_async(threading.get_ident)()

    assert served(work) == closed[0]
