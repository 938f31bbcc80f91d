"""How a request of async code ends: with the middleware, in a thread that goes with the request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import OperationalError, close_old_connections, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory

from django_connpool import holders, release, scope, scopes
from django_connpool.middleware import ConnectionPoolMiddleware
from tests import inside
from tests.databases import DEADLINE, Databases, in_thread, on_loan, pid, value
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until


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
    assert not here().offer
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
        assert not executor.submit(lambda: here().offer).result(DEADLINE)
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
    connection = here().connection
    assert connection is None or connection.info.backend_pid  # where the work had ended, None


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


# -- What the event loop gives back itself ----------------------------------------------------


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the thread of the queries, as work ends."""
    return inside.ways(monkeypatch)


@pytest.fixture
def single(databases: Databases) -> Any:
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE})
    until_known(wrapper.pool)
    return wrapper


def in_state() -> None:
    value(here(), "SELECT set_config('app.tenant', '7', false)")


def in_turns() -> list[int]:
    return [mine() for _ in range(20)]


@pytest.mark.parametrize("view", [mine, in_turns])
def test_what_is_on_offer_at_the_end_goes_back_without_a_way_to_its_thread(
    spare: Any, ways: list[str], view: Callable[[], Any]
) -> None:
    served(lambda: asked(sync_to_async(view)))
    assert ways == []
    assert_all_is_back(spare)


def test_so_it_does_at_the_end_of_a_scope(spare: Any, ways: list[str]) -> None:
    async def work() -> None:
        async with scope("job"):
            await sync_to_async(mine)()
            assert on_loan(spare) == 1
        assert on_loan(spare) == 0

    served(work)
    assert ways == []
    assert_all_is_back(spare)


def test_so_it_does_between_the_parts_of_a_stream_and_at_its_end(
    spare: Any, ways: list[str]
) -> None:
    async def body() -> AsyncIterator[str]:
        for _ in range(3):
            await sync_to_async(mine)()
            yield "part"

    async def get_response(request: Any) -> StreamingHttpResponse:
        await sync_to_async(mine)()
        return StreamingHttpResponse(body())

    async def work() -> None:
        answer: Any = ConnectionPoolMiddleware(get_response)(AsyncRequestFactory().get("/page/"))
        async for _ in await answer:
            assert on_loan(spare) == 0

    served(work)
    assert ways == []
    assert_all_is_back(spare)


@pytest.mark.parametrize("query", [in_a_block, in_state])
def test_what_has_to_be_ended_in_its_thread_is(
    spare: Any, ways: list[str], query: Callable[[], Any]
) -> None:
    served(lambda: asked(sync_to_async(query)))
    assert ways == ["release_loans"]
    assert_all_is_back(spare)


def test_what_would_have_the_event_loop_wait_or_log_is_ended_in_its_thread(
    databases: Databases, ways: list[str]
) -> None:
    def close(wrapper: Any) -> None:
        inside.wind_up(wrapper.pool)

    def tell(wrapper: Any) -> None:
        inside.be_reported(inside.offered(wrapper))

    for make in (close, tell):
        ways.clear()
        wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE})
        until_known(wrapper.pool)

        def view(make: Callable[[Any], None] = make) -> None:
            mine()
            make(here())

        served(lambda view=view: asked(sync_to_async(view)))  # type: ignore[misc]
        assert ways == ["release_loans"]


def test_what_fails_is_ended_in_its_thread_if_it_has_queried(spare: Any, ways: list[str]) -> None:
    """A job that was cancelled may be running there."""

    async def fails() -> None:
        raise RuntimeError("on purpose")

    async def fails_later() -> None:
        await sync_to_async(mine)()
        raise RuntimeError("on purpose")

    async def work() -> None:
        for view, way in ((fails, []), (fails_later, ["release_loans"])):
            ways.clear()
            with pytest.raises(RuntimeError):
                await asked(view)
            assert ways == way
            ways.clear()
            with pytest.raises(RuntimeError):
                async with scope("job"):
                    await view()
            assert ways == way

    served(work)
    assert_all_is_back(spare)


@pytest.mark.parametrize("name", ["close", "_close"])
def test_a_close_that_somebody_has_put_on_the_class_is_called_in_that_thread(
    single: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    closed = []
    close = getattr(type(single), name)

    def told(wrapper: Any) -> None:
        closed.append(threading.get_ident())
        close(wrapper)

    monkeypatch.setattr(type(single), name, told)

    async def work() -> int:
        await asked(sync_to_async(mine))
        assert len(closed) == 1
        return await sync_to_async(threading.get_ident)()

    assert served(work) == closed[0]


def test_a_temporary_connection_after_that_is_closed_at_its_end(single: Any) -> None:
    def look() -> None:
        with here().temporary_connection() as cursor:
            cursor.execute("SELECT 1")

    async def work() -> None:
        await asked(sync_to_async(mine))
        await sync_to_async(look)()
        assert on_loan(single) == 0

    served(work)


def in_a_scope() -> int:
    with scope("inside"):
        return mine()


@pytest.mark.parametrize("query", [mine, in_a_scope])
def test_who_comes_next_is_not_concerned_with_a_thread_that_holds_nothing(
    databases: Databases, query: Callable[[], int]
) -> None:
    """As those of a hundred clients who are slow to read what they asked for."""
    for mode in ("auto", "request", "transaction"):
        wrapper = databases.add(pool={"release": mode})
        until_known(wrapper.pool)

        async def work() -> None:
            theirs = await asked(sync_to_async(lambda: (query(), here())[1]))
            assert theirs not in holders.anywhere()
            assert not inside.holds_outside_of_work(theirs)

        served(work)


# -- What a job does meanwhile that the work has left running ---------------------------------


@pytest.fixture
def ended(single: Any) -> Iterator[scopes.Scope]:
    """Work that has ended, with what it has had on offer."""
    with scopes.entered("work") as work:
        yield work
    single.close()


def test_what_is_in_hand_is_left_to_its_thread(single: Any, ended: scopes.Scope) -> None:
    single.ensure_connection()
    assert not single.end_from_afar(ended.life)
    assert single in holders.here() and on_loan(single) == 1


def test_what_its_thread_takes_up_at_that_moment_is_left_to_it(
    single: Any, ended: scopes.Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine()
    monkeypatch.setattr(single, "surrender", lambda: False)
    assert not single.end_from_afar(ended.life)
    assert single in holders.here()


def test_what_is_on_its_way_into_the_hand_stays_noted(single: Any, ended: scopes.Scope) -> None:
    mine()
    connection = single.offer.pop()  # as it is taken up: in the offer no more, and not in hand yet
    assert single.end_from_afar(ended.life)
    assert single in holders.here()
    single.connection = connection


def test_what_others_have_taken_and_given_back_is_noted_no_more(
    single: Any, ended: scopes.Scope
) -> None:
    mine()
    inside.take_all(single.pool)
    assert single.end_from_afar(ended.life)
    assert single not in holders.here()


def test_what_is_on_offer_for_other_work_stays(single: Any, ended: scopes.Scope) -> None:
    with scopes.entered("other"):
        mine()
    assert single.end_from_afar(ended.life)
    assert inside.offered(single) is not None


def in_hand(wrapper: Any) -> None:
    wrapper.ensure_connection()


@pytest.mark.parametrize("borrow", [in_hand, pid])
def test_what_is_held_by_then_stays_noted(single: Any, borrow: Callable[[Any], Any]) -> None:
    borrow(single)
    single.resumes = None  # by who ends the work before
    single.forget_note()
    assert single in holders.here()
    single.close()


def test_who_looks_at_a_connection_on_offer_by_then_gets_it(single: Any) -> None:
    backend = pid(single)
    single.resumes = None  # by who ends the work before
    assert single.connection.info.backend_pid == backend
    single.close()


def test_what_is_borrowed_meanwhile_is_noted_though_the_end_takes_that_back(single: Any) -> None:
    with inside.taking_back_the_first_note(single):
        single.ensure_connection()
    assert single in holders.here()
    single.close()


def test_so_is_what_was_parked(single: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    with inside.maintenance_asleep():
        for _ in range(2):
            with scope("work"):
                mine()
        assert inside.parked(single) is not None
        with inside.taking_back_the_first_note(single):
            single.connect_for_a_statement()
        assert single in holders.here()
    single.close()


@pytest.mark.parametrize("is_awaited", [True, False])
@pytest.mark.parametrize("thread_sensitive", [True, False])
def test_what_it_does_after_the_end_does_not_bind_its_thread_to_the_settings_of_then(
    single: Any, is_awaited: bool, thread_sensitive: bool
) -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as executor:
            where: dict[str, Any] = {"thread_sensitive": thread_sensitive}
            if not thread_sensitive:
                where["executor"] = executor

            async def view() -> scopes.Scope | None:
                await sync_to_async(mine, **where)()
                return scopes.current.get()

            ended = await asked(view)

            def left_running() -> None:
                token = scopes.current.set(ended)
                try:
                    with inside.somebody_in_line(single.pool) if is_awaited else nullcontext():
                        value(here(), "SELECT 1")
                finally:
                    scopes.current.reset(token)

            await sync_to_async(left_running, **where)()
            assert on_loan(single) == 0
            spare = await sync_to_async(here, **where)()
            spare.settings_dict["OPTIONS"]["application_name"] = "databases-new"
            assert await sync_to_async(name_there, **where)() == "databases-new"

    served(work)


def name_there() -> Any:
    return value(here(), "SHOW application_name")


def test_who_waits_in_vain_as_the_work_before_ends_does_not_bring_its_settings_back(
    databases: Databases,
) -> None:
    """Two that take turns in one thread, which lives on."""
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE})
    until_known(wrapper.pool)
    pool = wrapper.pool
    first_did, first_is_over = asyncio.Event(), asyncio.Event()

    async def first(there: ThreadPoolExecutor) -> None:
        async with scope("first"):
            await sync_to_async(mine, thread_sensitive=False, executor=there)()
            taken.append(await asyncio.to_thread(pool.getconn))
            first_did.set()
            await asyncio.to_thread(wait_until, lambda: pool.is_awaited, "it stands in line")
        first_is_over.set()

    async def second(there: ThreadPoolExecutor) -> None:
        await first_did.wait()
        async with scope("second"):
            pool.timeout = 1.0
            job = asyncio.ensure_future(
                sync_to_async(mine, thread_sensitive=False, executor=there)()
            )
            await first_is_over.wait()
            with pytest.raises(OperationalError):
                await job

    async def third(there: ThreadPoolExecutor) -> Any:
        async with scope("third"):
            return await sync_to_async(name_there, thread_sensitive=False, executor=there)()

    async def main() -> Any:
        with ThreadPoolExecutor(1) as there:
            await asyncio.gather(first(there), second(there))
            pool.timeout = DEADLINE
            pool.putconn(taken.pop())
            theirs = await asyncio.wrap_future(there.submit(here))
            theirs.settings_dict["OPTIONS"]["application_name"] = "databases-new"
            return await third(there)

    taken: list[Any] = []
    assert asyncio.run(main()) == "databases-new"


def look_around() -> None:
    with scope("inside"):
        mine()


@pytest.mark.parametrize("do", [look_around, release, close_old_connections])
@pytest.mark.parametrize("begins", ["before the end", "after it"])
def test_what_it_writes_after_the_end_is_not_lost(
    single: Any, do: Callable[[], None], begins: str
) -> None:
    """The block is its own, and goes on, though the work has ended that it was begun in."""
    is_between, goes_on = threading.Event(), threading.Event()

    def job() -> None:
        is_between.set()
        assert goes_on.wait(DEADLINE)
        with transaction.atomic(using="spare"):
            value(here(), "INSERT INTO left_running VALUES (1) RETURNING 1")
            do()

    async def left_running(has_ended: asyncio.Event) -> None:
        if begins == "after it":
            await has_ended.wait()
        await sync_to_async(job)()

    async def work() -> None:
        has_ended = asyncio.Event()

        async def view() -> asyncio.Task[None]:
            await sync_to_async(in_a_block if begins == "after it" else mine)()
            task = asyncio.create_task(left_running(has_ended))
            if begins == "before the end":
                assert await asyncio.to_thread(is_between.wait, DEADLINE)
                asyncio.get_running_loop().call_soon(goes_on.set)  # when the view has ended
            return task

        task = await asked(view)
        goes_on.set()
        has_ended.set()
        await task

    single.pool.resize(0, 2)
    with here().cursor() as cursor:
        cursor.execute("CREATE TABLE left_running (n int)")
    here().close()
    try:
        served(work)
        assert value(here(), "SELECT count(*) FROM left_running") == 1
    finally:
        with here().cursor() as cursor:
            cursor.execute("DROP TABLE left_running")
        here().close()


def test_an_atomic_block_that_it_begins_after_the_end_is_ended_by_the_next_work(
    single: Any,
) -> None:
    """It would be there for ever, and all that follows in that thread would be rolled back."""

    def do(statement: str) -> None:
        with here().cursor() as cursor:
            cursor.execute(statement)

    def begin() -> None:
        transaction.atomic(using="spare").__enter__()

    async def work() -> None:
        goes_on = asyncio.Event()

        async def left_running() -> None:
            await goes_on.wait()
            await sync_to_async(begin)()

        async with scope("work"):
            await sync_to_async(mine)()
            task = asyncio.create_task(left_running())
        goes_on.set()
        await task
        async with scope("next"):
            await sync_to_async(do)("INSERT INTO left_running VALUES (1)")

    do("CREATE TABLE left_running (n int)")
    here().close()
    try:
        async_to_sync(work)()
        assert in_thread(lambda: value(here(), "SELECT count(*) FROM left_running")) == 1
    finally:
        here().close()
        do("DROP TABLE left_running")
        here().close()
