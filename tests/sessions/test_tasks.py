"""Each way to change a session, from one world into the other: tasks and threads on one pool."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db.utils import DatabaseErrorWrapper

from django_connpool import aio
from tests.databases import Databases, pid
from tests.pool.real.helpers import until_known
from tests.sessions.corpus import HIDDEN, REPORTED, STATEMENTS, apply
from tests.sessions.state import full_state, leaks

pytestmark = pytest.mark.stress

CHANGES = {**STATEMENTS, **REPORTED, **HIDDEN}
# Django's own ways, or psycopg's for threads alone; an open cursor is in tests/aio.
FOR_THREADS = {
    *("set in atomic", "set and rolled back by atomic", "set, then another atomic fails"),
    *("lock and rolled back by atomic", "a cursor made by hand", "iterator not read to its end"),
}


class Waited:
    """An async object as a sync one: what is to be awaited is awaited in the loop at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thing: Any) -> None:
        self.__dict__.update(loop=loop, thing=thing)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.thing, name)
        if not inspect.ismethod(found):
            return found
        return lambda *args, **named: self._done(found(*args, **named))

    def __setattr__(self, name: str, value: Any) -> None:
        by_method = getattr(self.thing, f"set_{name}", None)
        if by_method is None:
            setattr(self.thing, name, value)
        else:
            self._done(by_method(value))

    def _done(self, result: Any) -> Any:
        with DatabaseErrorWrapper(self):
            while inspect.isawaitable(result):
                result = self.loop.run_until_complete(_awaited(result))
        is_async = any(hasattr(result, name) for name in ("__aenter__", "__anext__"))
        return Waited(self.loop, result) if is_async else result

    Database = psycopg
    errors_occurred = False

    def __enter__(self) -> Any:
        return self._done(self.thing.__aenter__())

    def __exit__(self, *error: object) -> Any:
        return self._done(self.thing.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        return Waited(self.loop, self.thing.__aiter__())

    def __next__(self) -> Any:
        try:
            return self._done(self.thing.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


async def _awaited(thing: Any) -> Any:
    return await thing


class TaskWrapper:
    """What the corpus asks of Django's wrapper, of a task's connection."""

    def __init__(self, alias: str, connection: Waited) -> None:
        self.alias = alias
        self.connection = connection

    def ensure_connection(self) -> None:
        pass

    def set_autocommit(self, value: bool) -> None:
        self.connection.autocommit = value

    def cursor(self) -> Any:
        return self.connection.cursor()

    def chunked_cursor(self) -> Any:
        return self.connection.cursor(name="corpus", withhold=True)


@contextmanager
def in_a_task(alias: str) -> Iterator[TaskWrapper]:
    """A block with the connection of a task's, which has it for so long."""
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    got: list[Any] = []

    async def borrow() -> None:
        async with aio.pools[alias].acquire(timeout=20) as conn:
            got.append(conn)
            await over.wait()

    async def until_got() -> None:
        while not got and not task.done():
            await asyncio.sleep(0)

    try:
        task = loop.create_task(borrow())
        loop.run_until_complete(until_got())
        try:
            yield TaskWrapper(alias, Waited(loop, got[0]))
        finally:
            over.set()
            loop.run_until_complete(task)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture
def pooled(databases: Databases) -> Callable[..., Any]:
    """A function that returns a wrapper on a pool of one, which knows the server's functions."""

    def make(alias: str) -> Any:
        wrapper = databases.add(alias, pool={"max_size": 1}, options={"application_name": ""})
        pid(wrapper)
        wrapper.close()
        until_known(wrapper.pool)
        return wrapper

    return make


def test_a_thread_finds_nothing_of_what_a_task_did(pooled: Any, fresh: Any) -> None:
    wrapper = pooled("used")
    found = {}
    for name, change in CHANGES.items():
        if name in FOR_THREADS:
            continue
        with in_a_task("used") as task:
            kept = apply(task, change)
        found[name] = leaks(wrapper, fresh)
        wrapper.close()
        del kept
    assert {name: left for name, left in found.items() if left} == {}
    assert len(found) > 150


def test_a_task_finds_nothing_of_what_a_thread_or_a_task_did(pooled: Any) -> None:
    pooled("unused")
    with in_a_task("unused") as task:
        fresh = full_state(task)
    wrapper = pooled("used")
    found = {}
    for name, change in CHANGES.items():
        kept = apply(wrapper, change)
        wrapper.close()
        with in_a_task("used") as task:
            found[name] = leaks(task, fresh)
            if name not in FOR_THREADS:
                kept = apply(task, change)
        with in_a_task("used") as task:
            found[f"{name}, by a task"] = leaks(task, fresh)
        del kept
    assert {name: left for name, left in found.items() if left} == {}
