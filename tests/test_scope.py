"""Work under a name of its own, which gives back at its end: `django_connpool.scope`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction
from django.db.utils import OperationalError

import django_connpool
from django_connpool import scopes
from tests.databases import DEADLINE, Databases, in_thread, on_loan, pid, value
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until

T = TypeVar("T")


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2, "timeout": 5})


def mine() -> int:
    return pid(connections["spare"])


def notes(wrapper: Any) -> list[str | None]:
    return [loan["note"] for loan in wrapper.pool.snapshot()["loans"]]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it as a request is run: with a thread for its queries that ends with it."""

    async def main() -> T:
        async with ThreadSensitiveContext():
            return await work

    return asyncio.run(main())


def comes_back(wrapper: Any) -> None:
    wait_until(lambda: on_loan(wrapper) == 0, "the connection is given back", DEADLINE)
    assert wrapper.pool.get_stats()["loans_reclaimed"] == 0


def test_it_names_the_loan_and_gives_it_back_at_its_end(spare: Any) -> None:
    with django_connpool.scope("job 17"):
        mine()
        assert notes(spare) == ["job 17"]

    assert on_loan(spare) == 0


def test_its_name_cannot_forge_a_line_of_a_log(spare: Any) -> None:
    with django_connpool.scope("GET /a\nspare: all is well\x1b[31m"):
        mine()
        assert notes(spare) == ["GET /a?spare: all is well?[31m"]


def test_the_timeout_of_others_names_it(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 1, "timeout": DEADLINE, "release": "request"})
    until_known(spare.pool)  # it is open, and not cleaned after each loan, whatever that takes
    spare.pool.timeout = 0.1
    with django_connpool.scope("job 17"):
        mine()
        with pytest.raises(OperationalError, match="job 17"):
            in_thread(mine)
    assert on_loan(spare) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_it_gives_back_when_the_work_fails(spare: Any, error: type[BaseException]) -> None:
    with pytest.raises(error), django_connpool.scope("job 17"):
        mine()
        raise error

    assert on_loan(spare) == 0


def test_what_was_borrowed_before_and_is_at_rest_goes_back_first(spare: Any) -> None:
    mine()
    for number in range(3):
        with django_connpool.scope(f"job {number}"):
            assert on_loan(spare) == 0
            mine()
            assert notes(spare) == [f"job {number}"]
        assert on_loan(spare) == 0


def test_what_was_set_before_is_not_there(spare: Any, caplog: pytest.LogCaptureFixture) -> None:
    with spare.cursor() as cursor:
        cursor.execute("SET app.tenant = 'outside'")
    with django_connpool.scope("job 17"):
        assert value(spare, "SELECT current_setting('app.tenant', true)") in (None, "")
    (record,) = caplog.records
    assert "settings" in record.getMessage()
    assert "pinned()" in record.getMessage()


@pytest.mark.parametrize("release", ["request", "transaction"])
def test_what_one_sets_the_next_does_not_find(databases: Databases, release: str) -> None:
    spare = databases.add(pool={"max_size": 1, "release": release})
    mine()
    for number in range(3):
        with django_connpool.scope(f"job {number}"):
            found = value(spare, "SELECT current_setting('app.tenant', true)")
            assert found in (None, "")
            with spare.cursor() as cursor:
                cursor.execute("SET app.tenant = '42'")


def test_a_cursor_that_was_closed_before_keeps_nothing(spare: Any) -> None:
    with spare.cursor() as cursor:
        cursor.execute("SELECT 1")
    with django_connpool.scope("job 17"):
        assert on_loan(spare) == 0
    assert cursor.closed


@pytest.mark.parametrize("where", ["here", "on the server"])
def test_rows_are_read_from_an_open_cursor_while_each_has_a_scope(spare: Any, where: str) -> None:
    with spare.cursor() if where == "here" else spare.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for number in range(1, 4):
            assert cursor.fetchone() == (number,)
            with django_connpool.scope(f"row {number}"):
                assert on_loan(spare) == (where == "on the server")
                mine()
    with django_connpool.scope("job 17"):
        assert on_loan(spare) == 0


@pytest.mark.parametrize("release", ["request", "transaction"])
def test_a_transaction_by_hand_keeps_its_connection(databases: Databases, release: str) -> None:
    spare = databases.add(pool={"max_size": 1, "release": release})
    transaction.set_autocommit(False, using="spare")
    first = value(spare, "SELECT txid_current()")
    with django_connpool.scope("job 17"):
        assert value(spare, "SELECT txid_current()") == first
    assert value(spare, "SELECT txid_current()") == first
    transaction.rollback(using="spare")
    with django_connpool.scope("job 18"):
        mine()
    assert transaction.get_autocommit(using="spare") is False
    transaction.rollback(using="spare")
    transaction.set_autocommit(True, using="spare")


def test_pinned_keeps_its_connection_and_the_outer_scope_gives_it_back(spare: Any) -> None:
    with django_connpool.scope("outer"):
        with django_connpool.pinned("spare"):
            with django_connpool.scope("inner"):
                first = mine()
            with django_connpool.scope("inner"):
                assert on_loan(spare) == 1
                assert mine() == first
            assert on_loan(spare) == 1
        mine()
    assert on_loan(spare) == 0


def test_a_connection_in_somebodys_hand_stays(spare: Any) -> None:
    mine()
    by_hand = spare.connection
    with django_connpool.scope("job 17"):
        mine()
        assert spare.connection is by_hand
    assert by_hand.execute("SELECT 1").fetchone() == (1,)


def test_async_code_too_begins_without_what_is_at_rest(spare: Any) -> None:
    async def work() -> int:
        await sync_to_async(mine)()
        assert on_loan(spare) == 1
        async with django_connpool.scope("job 17"):
            assert on_loan(spare) == 0
            await sync_to_async(mine)()
            assert notes(spare) == ["job 17"]
            async with django_connpool.scope("inner"):
                assert on_loan(spare) == 0
        return on_loan(spare)

    assert run(work()) == 0


def set_it() -> None:
    connections["spare"].cursor().execute("SET app.tenant = '42'")


def tenant() -> Any:
    return value(connections["spare"], "SELECT current_setting('app.tenant', true)")


def test_what_other_tasks_work_goes_on_with_stays_when_a_task_begins(
    spare: Any, databases: Databases
) -> None:
    """In their thread, and beside something that does go back there."""
    other = databases.add("second")

    async def first(has_set: asyncio.Event, has_begun: asyncio.Event) -> Any:
        async with django_connpool.scope("first"):
            await sync_to_async(set_it)()
            has_set.set()
            await has_begun.wait()
            return await sync_to_async(tenant)()

    async def work() -> tuple[Any, int]:
        has_set, has_begun = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(has_set, has_begun))
        await has_set.wait()
        await sync_to_async(lambda: pid(connections["second"]))()  # for no work
        assert on_loan(other) == 1
        async with django_connpool.scope("second"):
            has_begun.set()
            return await task, on_loan(other)

    assert run(work()) == ("42", 0)


def test_neither_does_a_function_with_a_scope_of_its_own_take_it_from_them(spare: Any) -> None:
    @django_connpool.scope("of another task")
    def job() -> None:
        pass

    async def another(has_set: asyncio.Event) -> None:
        await has_set.wait()
        await sync_to_async(job)()

    async def first(has_set: asyncio.Event, task: asyncio.Task[None]) -> Any:
        async with django_connpool.scope("first"):
            await sync_to_async(set_it)()
            has_set.set()
            await task
            return await sync_to_async(tenant)()

    async def work() -> Any:
        has_set = asyncio.Event()
        return await first(has_set, asyncio.create_task(another(has_set)))

    assert run(work()) == "42"


def test_rows_that_are_being_read_can_each_have_a_scope(spare: Any) -> None:
    with spare.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for number in range(1, 4):
            assert cursor.fetchone() == (number,)
            with django_connpool.scope(f"row {number}"):
                assert value(spare, "SELECT 1") == 1


def test_an_inner_one_has_loans_of_its_own(spare: Any, databases: Databases) -> None:
    other = databases.add("second")
    with django_connpool.scope("outer"):
        first = mine()
        with django_connpool.scope("inner"):
            pid(other)
            assert notes(other) == ["inner"]
        assert (on_loan(spare), on_loan(other)) == (0, 0)
        assert mine() == first
        assert notes(spare) == ["outer"]
        with django_connpool.scope():
            pid(other)
            assert notes(other) == ["outer"]
    assert (on_loan(spare), on_loan(other)) == (0, 0)


def test_inside_atomic_the_connection_stays(spare: Any) -> None:
    with transaction.atomic(using="spare"):
        first = mine()
        with django_connpool.scope("job 17"):
            assert mine() == first
        assert mine() == first
        assert on_loan(spare) == 1


def test_a_block_that_was_begun_inside_and_is_open_at_the_end_is_rolled_back(
    spare: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with django_connpool.scope("outer"):
        with django_connpool.scope("inner"):
            block = transaction.atomic(using="spare")
            block.__enter__()
            first = mine()
        assert on_loan(spare) == 0
        assert mine() != first
    (record,) = caplog.records
    assert (record.levelname, "inner" in record.getMessage()) == ("ERROR", True)


def test_it_decorates_functions(spare: Any) -> None:
    @django_connpool.scope("job 17")
    def work(number: int, *, add: int) -> tuple[int, list[str | None]]:
        """What it does."""
        mine()
        return number + add, notes(spare)

    assert work(1, add=2) == (3, ["job 17"])
    assert (work.__name__, work.__doc__) == ("work", "What it does.")
    assert on_loan(spare) == 0


def test_a_function_without_a_name_for_its_work_gives_its_own(spare: Any) -> None:
    @django_connpool.scope()
    def nightly() -> list[str | None]:
        mine()
        return notes(spare)

    (note,) = nightly()
    assert note is not None and note.endswith("nightly")


def test_a_decorated_function_may_call_itself_and_run_in_several_threads(spare: Any) -> None:
    together = threading.Barrier(2)

    @django_connpool.scope("job")
    def work(depth: int) -> None:
        if depth:
            work(depth - 1)
        mine()
        if not depth:
            together.wait(DEADLINE)

    with ThreadPoolExecutor(2) as executor:
        for done in [executor.submit(work, 2) for _ in range(2)]:
            done.result(DEADLINE)
        assert on_loan(spare) == 0


def test_a_block_that_async_work_leaves_open_ends_with_it_though_its_connection_is_closed(
    spare: Any,
) -> None:
    blocks = [transaction.atomic(using="spare")]

    def lose() -> None:
        blocks[0].__enter__()
        connections["spare"].close()

    async def work() -> tuple[bool, bool]:
        async with django_connpool.scope("job"):
            await sync_to_async(lose)()
            was = await sync_to_async(lambda: connections["spare"].in_atomic_block)()
        return was, await sync_to_async(lambda: connections["spare"].in_atomic_block)()

    assert run(work()) == (True, False)


def test_async_work_that_has_something_in_hand_gives_it_back_at_its_end(spare: Any) -> None:
    def set_something() -> None:
        value(connections["spare"], "SELECT set_config('app.tenant', '7', false)")

    async def work() -> int:
        async with django_connpool.scope("job"):
            await sync_to_async(set_something)()
            assert on_loan(spare) == 1
        return on_loan(spare)

    assert run(work()) == 0


def test_what_is_called_at_the_end_of_async_work_is_called_in_that_thread(
    databases: Databases,
) -> None:
    threads = []

    def reset(conn: Any) -> None:
        threads.append(threading.get_ident())

    databases.add(pool={"max_size": 1, "reset": reset})

    async def work() -> int:
        async with django_connpool.scope("job"):
            await sync_to_async(mine)()
        return await sync_to_async(threading.get_ident)()

    assert {run(work())} == set(threads)


def test_async_code_gives_back_in_the_thread_that_holds_the_connection(spare: Any) -> None:
    async def work() -> int:
        async with django_connpool.scope("job 17"):
            await sync_to_async(mine)()
            assert notes(spare) == ["job 17"]
        return on_loan(spare)

    assert run(work()) == 0
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


def test_it_decorates_coroutines(spare: Any) -> None:
    @django_connpool.scope("job 17")
    async def work() -> list[str | None]:
        await sync_to_async(mine)()
        return notes(spare)

    async def main() -> tuple[list[str | None], int]:
        return await work(), on_loan(spare)

    assert run(main()) == (["job 17"], 0)


def test_a_task_that_is_cancelled_gives_back(spare: Any) -> None:
    borrowed = threading.Event()

    async def work() -> None:
        async with django_connpool.scope("job 17"):
            await sync_to_async(mine)()
            borrowed.set()
            await asyncio.sleep(60)

    async def main() -> int:
        task = asyncio.create_task(work())
        assert await asyncio.to_thread(borrowed.wait, DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return on_loan(spare)

    assert run(main()) == 0


async def in_another_thread() -> None:
    await asyncio.to_thread(mine)


async def in_any_thread() -> None:
    await sync_to_async(mine, thread_sensitive=False)()


@pytest.mark.parametrize("borrow", [in_another_thread, in_any_thread])
def test_other_threads_that_live_on_give_back_soon_after(
    spare: Any, borrow: Callable[[], Any]
) -> None:
    async def main() -> None:
        async with django_connpool.scope("job 17"):
            await borrow()
            assert on_loan(spare) == 1
        await asyncio.to_thread(comes_back, spare)

    run(main())


def test_other_threads_that_are_busy_at_the_end_are_left_alone_until_they_are_done(
    spare: Any,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        with transaction.atomic(using="spare"):
            first = mine()
            begun.set()
            go_on.wait(DEADLINE)
            return mine() == first

    async def main() -> None:
        async with django_connpool.scope("job 17"):
            task = asyncio.create_task(asyncio.to_thread(work))
            assert await asyncio.to_thread(begun.wait, DEADLINE)
        assert on_loan(spare) == 1
        go_on.set()
        assert await task
        await asyncio.to_thread(comes_back, spare)

    run(main())


def test_a_task_that_outlives_the_scope_it_was_begun_in_gives_back(spare: Any) -> None:
    over = threading.Event()

    def work() -> int:
        over.wait(DEADLINE)
        return mine()

    async def main() -> None:
        async with django_connpool.scope("job 17"):
            task = asyncio.create_task(asyncio.to_thread(work))
            await asyncio.sleep(0)
        over.set()
        assert await task
        await asyncio.to_thread(comes_back, spare)

    run(main())


def test_who_has_given_back_is_no_borrower_of_the_work_any_more(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 1})
    with django_connpool.scope("some work"):
        work: Any = scopes.current.get()
        pid(spare)
        assert work.borrowers == {spare}
        spare.close()
        assert work.borrowers == set()
