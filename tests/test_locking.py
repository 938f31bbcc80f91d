"""Everybody waits for each other: said at once, with the way out, and those who can go on do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.db.utils import OperationalError

import django_connpool
from tests import inside
from tests.databases import DEADLINE, Databases, in_threads, pid

HOLDERS = 3


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": HOLDERS, "timeout": 10 * DEADLINE, "release": "request"})


def query(alias: str) -> None:
    try:
        pid(connections[alias])
    finally:
        connections[alias].close()


def works(wrapper: Any, wait: Callable[[], None]) -> list[BaseException | None]:
    """So many pieces of work hold a connection each and then wait; what came of each."""
    together = threading.Barrier(HOLDERS, timeout=DEADLINE)

    def work(number: int) -> BaseException | None:
        with django_connpool.scope(f"job {number}"):
            pid(connections[wrapper.alias])
            together.wait()
            try:
                wait()
            except OperationalError as error:
                return error
            return None

    return in_threads([lambda n=n: work(n) for n in range(HOLDERS)], 2 * DEADLINE)


def assert_told(outcomes: list[BaseException | None], most: int = HOLDERS - 1) -> None:
    """One is told and gives back, which lets the others go on."""
    told = [str(error) for error in outcomes if error is not None]
    assert 1 <= len(told) <= most
    for text in told:
        assert "waits for each other" in text
        assert all(f"job {number}" in text for number in range(HOLDERS))
        assert "released()" in text


def in_threads_of_their_own(alias: str) -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(copy_context().run, query, alias).result(2 * DEADLINE)


def in_threads_that_know_nothing(alias: str) -> None:
    """They do not have the context of who waits for them."""
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(query, [alias, alias]))


def in_a_thread_that_is_joined(alias: str) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            query(alias)
        except OperationalError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(2 * DEADLINE)
    for error in errors:
        raise error


def in_async_threads(alias: str) -> None:
    async def work() -> None:
        await sync_to_async(query, thread_sensitive=False)(alias)

    asyncio.run(work())


@pytest.mark.parametrize(
    "how",
    [
        in_threads_of_their_own,
        in_threads_that_know_nothing,
        in_a_thread_that_is_joined,
        in_async_threads,
    ],
)
def test_work_that_waits_for_its_threads(spare: Any, how: Callable[[str], None]) -> None:
    # Of two threads that know nothing, one that is told does not end the wait for the other.
    most = HOLDERS if how is in_threads_that_know_nothing else HOLDERS - 1
    assert_told(works(spare, lambda: how(spare.alias)), most)


def test_work_that_waits_for_itself(databases: Databases, spare: Any) -> None:
    same = {"NAME": spare.settings_dict["NAME"], "options": spare.settings_dict["OPTIONS"]}
    databases.add("twin", **same)
    outcomes = works(spare, lambda: query("twin"))
    assert_told(outcomes)
    assert any(f"which is {HOLDERS + 1} here" in str(error) for error in outcomes)


def test_work_that_does_something_meanwhile_is_waited_for(spare: Any) -> None:
    """Its own thread is in the middle of a statement, and then ends."""

    def wait() -> None:
        other = threading.Thread(target=query, args=[spare.alias])
        other.start()
        with connections[spare.alias].cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)")
        connections[spare.alias].close()
        other.join(DEADLINE)

    assert works(spare, wait) == [None] * HOLDERS


def test_one_who_is_not_waiting_itself_is_waited_for(spare: Any) -> None:
    go_on = threading.Event()

    def hold() -> None:
        with django_connpool.scope("a long job"):
            pid(connections[spare.alias])
            go_on.wait(DEADLINE)

    holders = [threading.Thread(target=hold) for _ in range(HOLDERS)]
    for holder in holders:
        holder.start()
    waiter: list[BaseException | None] = []

    def wait() -> None:
        with django_connpool.scope("another"):
            query(spare.alias)
        waiter.append(None)

    thread = threading.Thread(target=wait)
    thread.start()
    ticks = spare.pool.get_stats()["requests_waiting"]
    while not ticks:
        ticks = spare.pool.get_stats()["requests_waiting"]
    for _ in range(20):
        inside.tick(spare.pool)
    assert not waiter
    go_on.set()
    thread.join(DEADLINE)
    for holder in holders:
        holder.join(DEADLINE)
    assert waiter == [None]
