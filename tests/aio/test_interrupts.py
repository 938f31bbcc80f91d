"""An interrupt at every line of what a task does with a pool, one after the other."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias

import psycopg
import pytest

from django_connpool import PoolTimeout, aio
from tests import inside
from tests.aio.conftest import MakePool
from tests.aio.helpers import at_rest, in_line, seen, until
from tests.interrupter import Interrupter, is_safe, trail
from tests.testproject.processes import wait_until

pytestmark = [
    *(pytest.mark.stress, pytest.mark.timeout(600)),
    # Of coroutines that an interrupt has kept from being awaited, and cursors from being closed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

DEADLINE = 20.0  # seconds until something that does not happen is called a failure

Scene: TypeAlias = Callable[[aio.Pool, Interrupter], Awaitable[None]]


def is_of_the_package(frame: FrameType) -> bool:
    """What is for tasks alone: the rest of the pool is looked at in tests/pool."""
    return frame.f_code.co_filename.endswith(inside.CODE_OF_TASKS)


class Strike(Interrupter):
    """An interrupt at the first line where there has not been one, by the way that led there."""

    def __init__(self, struck: set[str]) -> None:
        super().__init__(1, KeyboardInterrupt, is_of_the_package, self._is_safe_here)
        self._struck = struck

    def _is_safe_here(self, frame: FrameType) -> bool:
        way = trail(frame, is_of_the_package)
        # What strikes a finalizer goes nowhere.
        running = {entry.partition(":")[0] for entry in way}
        if not running.isdisjoint(inside.FINALIZERS) or is_safe(frame):
            return True
        return " < ".join(way) in self._struck

    def strike(self) -> None:
        self._struck.add(self.where)
        super().strike()


async def use(pool: aio.Pool) -> None:
    async with pool.acquire(DEADLINE) as conn:
        await conn.execute("SELECT 1")


# -- What tasks do, each in a pool of two connections at most -----------------------------


async def an_idle_connection(pool: aio.Pool, strikes: Interrupter) -> None:
    await use(pool)
    with strikes:
        await use(pool)


async def one_by_hand(pool: aio.Pool, strikes: Interrupter) -> None:
    await use(pool)
    with strikes:
        conn = await pool.acquire()
        await pool.release(conn)


async def no_connection(pool: aio.Pool, strikes: Interrupter) -> None:
    pool.sync.drain()
    await until(lambda: not seen(pool)["size"])
    with strikes:
        await use(pool)


async def one_that_is_handed_over(pool: aio.Pool, strikes: Interrupter) -> None:
    held = [await pool.acquire() for _ in range(pool.sync.max_size)]
    task = asyncio.ensure_future(use(pool))
    await in_line(pool, 1)
    with strikes:
        for conn in held:
            await pool.release(conn)
        await task


async def a_wait_that_is_cancelled(pool: aio.Pool, strikes: Interrupter) -> None:
    held = [await pool.acquire() for _ in range(pool.sync.max_size)]
    task = asyncio.ensure_future(use(pool))
    await in_line(pool, 1)
    with strikes:
        task.cancel()
        await asyncio.wait([task])
    for conn in held:
        await pool.release(conn)


async def one_that_is_handed_to_who_is_cancelled(pool: aio.Pool, strikes: Interrupter) -> None:
    held = [await pool.acquire() for _ in range(pool.sync.max_size)]
    task = asyncio.ensure_future(use(pool))
    await in_line(pool, 1)
    with strikes:
        await pool.release(held.pop())
        task.cancel()
        await asyncio.wait([task])
    await pool.release(held.pop())


async def a_wait_in_vain(pool: aio.Pool, strikes: Interrupter) -> None:
    held = [await pool.acquire() for _ in range(pool.sync.max_size)]
    with strikes, suppress(PoolTimeout):
        await pool.acquire(timeout=0.001)
    for conn in held:
        await pool.release(conn)


def passes(conn: Any) -> None:
    conn.execute("SELECT 1")


async def a_check(pool: aio.Pool, strikes: Interrupter) -> None:
    inside.change(pool.sync, ping_after=0.0, check=passes)
    await use(pool)
    with strikes:
        await use(pool)


async def a_check_that_fails(pool: aio.Pool, strikes: Interrupter) -> None:
    refused = []

    def check(conn: Any) -> None:
        if len(refused) < 1:
            refused.append(1)
            raise LookupError("not this one")

    await use(pool)
    inside.change(pool.sync, ping_after=0.0, check=check)
    for one in inside.idle(pool.sync):
        inside.vet(one)
    with strikes:
        await use(pool)


async def a_check_that_is_cancelled(pool: aio.Pool, strikes: Interrupter) -> None:
    inside.change(pool.sync, ping_after=0.0, check=passes)
    await use(pool)
    with strikes:
        task = asyncio.ensure_future(use(pool))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


def is_checked() -> bool:
    return not any(thread.name.endswith("-checks") for thread in threading.enumerate())


async def a_check_that_is_over_as_its_task_is_cancelled(
    pool: aio.Pool, strikes: Interrupter
) -> None:
    inside.change(pool.sync, ping_after=0.0, check=passes)
    await use(pool)
    task = asyncio.ensure_future(use(pool))
    await asyncio.sleep(0)
    wait_until(is_checked, "it is")  # while the loop stands still
    with strikes:
        task.cancel()
        await asyncio.wait([task])


async def a_changed_session(pool: aio.Pool, strikes: Interrupter) -> None:
    conn = await pool.acquire()
    await conn.execute("SET work_mem = '7MB'")
    with strikes:
        await pool.release(conn)
        await use(pool)


async def a_transaction_that_was_left_open(pool: aio.Pool, strikes: Interrupter) -> None:
    conn = await pool.acquire()
    await conn.execute("BEGIN")
    with strikes:
        await pool.release(conn)


async def a_block_that_raises(pool: aio.Pool, strikes: Interrupter) -> None:
    await use(pool)
    with strikes, suppress(ZeroDivisionError):
        async with pool.acquire() as conn:
            await conn.set_autocommit(False)
            await conn.execute("SELECT 1")
            raise ZeroDivisionError


async def a_statement_that_is_cancelled(pool: aio.Pool, strikes: Interrupter) -> None:
    conn = await pool.acquire()
    task = asyncio.ensure_future(conn.execute("SELECT pg_sleep(60)"))
    await until(lambda: conn.pgconn.transaction_status == 1)
    with strikes:
        task.cancel()
        await asyncio.wait([task])
        await pool.release(conn)


async def a_statement_of_another_task(pool: aio.Pool, strikes: Interrupter) -> None:
    conn = await pool.acquire()
    task = asyncio.ensure_future(conn.execute("SELECT pg_sleep(60)"))
    await until(lambda: conn.pgconn.transaction_status == 1)
    with strikes:
        await pool.release(conn)
        await asyncio.wait([task])


async def a_task_that_ends(pool: aio.Pool, strikes: Interrupter) -> None:
    kept = []

    async def borrow() -> None:
        kept.append(await pool.acquire())

    await use(pool)
    with strikes:
        await asyncio.wait([asyncio.ensure_future(borrow())])
        await asyncio.sleep(0)


async def a_connection_that_is_dropped(pool: aio.Pool, strikes: Interrupter) -> None:
    await use(pool)
    with strikes:
        conn = await pool.acquire()
        del conn
        await use(pool)


SCENES = [
    *(an_idle_connection, one_by_hand, no_connection, one_that_is_handed_over),
    *(a_wait_that_is_cancelled, one_that_is_handed_to_who_is_cancelled, a_wait_in_vain),
    *(a_check, a_check_that_fails, a_check_that_is_cancelled),
    a_check_that_is_over_as_its_task_is_cancelled,
    *(a_changed_session, a_transaction_that_was_left_open, a_block_that_raises),
    *(a_statement_that_is_cancelled, a_statement_of_another_task),
    *(a_task_that_ends, a_connection_that_is_dropped),
]


def interrupted(scene: Scene, strikes: Strike, pool: aio.Pool) -> str:
    """Play a scene with an interrupt; say where, or nothing when there was none any more."""
    play(scene, strikes, pool)
    gc.collect()  # of errors, which keep what they have passed
    return strikes.where


def play(scene: Scene, strikes: Strike, pool: aio.Pool) -> None:
    """As `asyncio.run` does, and it ends what is left however often an interrupt comes up."""
    loop = asyncio.new_event_loop()
    with suppress(KeyboardInterrupt):
        loop.run_until_complete(asyncio.wait_for(scene(pool, strikes), DEADLINE))
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        with suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def assert_sound(pool: aio.Pool, count: Callable[[], int]) -> None:
    """Every place can be borrowed, and the server sees as many as there are places."""
    served = []

    def borrow() -> None:
        conns = [pool.sync.getconn(DEADLINE) for _ in range(pool.sync.max_size)]
        for conn in conns:
            conn.execute("SELECT 1")
            conn.rollback()
        served.append(count())
        for conn in conns:
            pool.sync.putconn(conn)

    thread = threading.Thread(target=borrow, daemon=True)
    thread.start()
    thread.join(2 * DEADLINE)
    assert served == [pool.sync.max_size], pool.sync.snapshot()
    wait_until(lambda: at_rest(pool, idle=pool.sync.max_size), "all is at rest")
    assert not inside.has_leftovers(pool.sync)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_an_interrupt_at_any_line_loses_nothing(
    scene: Scene, make_pool: MakePool, dsn: str, app: str
) -> None:
    pool = make_pool(max_size=2, timeout=DEADLINE)
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    struck: set[str] = set()
    with psycopg.connect(dsn, autocommit=True) as server, collecting_quickly():

        def count() -> int:
            return int(server.execute(query, [app]).fetchone()[0])  # type: ignore[index]

        where = "nowhere"
        while where:
            inside.change(pool.sync, ping_after=60.0, check=None)
            where = interrupted(scene, Strike(struck), pool)
            try:
                assert_sound(pool, count)
            except Exception as failure:
                raise AssertionError(f"after an interrupt at {where}") from failure
    assert len(struck) > 10


@pytest.fixture(autouse=True)
def nothing_kept_by_the_log() -> Iterator[None]:
    """Whose records would keep the errors of tasks, and the frames that these have passed."""
    logger = logging.getLogger("asyncio")
    logger.disabled = True
    yield
    logger.disabled = False


@contextmanager
def collecting_quickly() -> Iterator[None]:
    """A block in which a whole collection looks only at what is new."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
