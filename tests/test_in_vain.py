"""A piece of work that has waited for a connection in vain does not wait again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.utils import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

import django_connpool
from django_connpool import PoolTimeout
from django_connpool.middleware import ConnectionPoolMiddleware
from tests.databases import DEADLINE, Databases, in_thread, pid
from tests.pool.real.helpers import until_known


def impatient(databases: Databases, release: str) -> Any:
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE, "release": release})
    until_known(wrapper.pool)  # it is open, and not cleaned after each loan, whatever that takes
    wrapper.pool.timeout = 0.2
    return wrapper


@pytest.fixture(params=["request", "transaction"])
def spare(databases: Databases, request: pytest.FixtureRequest) -> Any:
    return impatient(databases, request.param)


@pytest.fixture
def taken(spare: Any) -> Iterator[Callable[[], None]]:
    """Another has the only connection, until this is called."""
    has, over = threading.Event(), threading.Event()

    def hold() -> None:
        with spare.pool.connection(DEADLINE):
            has.set()
            over.wait(DEADLINE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(DEADLINE)

    def give_back() -> None:
        over.set()
        thread.join(DEADLINE)

    yield give_back
    give_back()


def fails(wrapper: Any) -> BaseException:
    """Query, in vain; return psycopg's error."""
    with pytest.raises(OperationalError, match="no connection became free") as caught:
        pid(wrapper)
    assert isinstance(caught.value.__cause__, PoolTimeout)
    return caught.value.__cause__


def waits(wrapper: Any) -> int:
    """How often somebody has stood in line so far."""
    return int(wrapper.pool.get_stats()["requests_queued"])


def test_a_request_that_fails_waits_once_whatever_its_error_handling_asks_for(
    spare: Any, taken: Callable[[], None]
) -> None:
    said: list[BaseException] = []

    def view(request: HttpRequest) -> HttpResponse:
        said.append(fails(spare))
        with pytest.raises(OperationalError), transaction.atomic(using=spare.alias):
            pytest.fail("it began")
        said.append(fails(spare))  # the error page
        return HttpResponse(status=500)

    before = waits(spare)
    ConnectionPoolMiddleware(view)(RequestFactory().get("/"))
    assert waits(spare) == before + 1
    assert str(said[0]) == str(said[1])


def test_the_next_request_waits_again(spare: Any, taken: Callable[[], None]) -> None:
    before = waits(spare)
    for _ in range(2):
        with django_connpool.scope("job"):
            fails(spare)
            fails(spare)
    assert waits(spare) == before + 2


def test_a_scope_within_waits_again(spare: Any, taken: Callable[[], None]) -> None:
    with django_connpool.scope("job"):
        fails(spare)
        before = waits(spare)
        with django_connpool.scope("a part of it"):
            fails(spare)
        assert waits(spare) == before + 1


def test_without_a_scope_each_waits(spare: Any, taken: Callable[[], None]) -> None:
    before = waits(spare)
    fails(spare)
    fails(spare)
    assert waits(spare) == before + 2


def test_what_is_free_by_then_is_had(spare: Any, taken: Callable[[], None]) -> None:
    with django_connpool.scope("job"):
        fails(spare)
        taken()
        assert pid(spare)


def test_the_threads_of_a_request_share_what_it_has_learnt(
    spare: Any, taken: Callable[[], None]
) -> None:
    async def work() -> None:
        async with django_connpool.scope("job"):
            for _ in range(3):
                with pytest.raises(OperationalError):
                    await sync_to_async(mine, thread_sensitive=False)()

    def mine() -> None:
        try:
            pid(connections[spare.alias])
        finally:
            connections[spare.alias].close()

    before = waits(spare)
    in_thread(lambda: asyncio.run(work()))
    assert waits(spare) == before + 1


def test_once_something_of_it_was_given_back_it_waits_again(databases: Databases) -> None:
    spare = impatient(databases, "request")
    pool = spare.pool
    same = {"NAME": spare.settings_dict["NAME"], "options": spare.settings_dict["OPTIONS"]}
    other = databases.add("twin", **same)
    assert other.pool is pool
    with django_connpool.scope("job"):
        pid(spare)
        fails(other)  # for the only connection is in its own hand
        before = waits(spare)
        fails(other)
        assert waits(spare) == before
        spare.close()
        pid(spare)
        fails(other)
        assert waits(spare) == before + 1


def test_another_pool_is_waited_for(
    databases: Databases, spare: Any, taken: Callable[[], None]
) -> None:
    other = databases.add("twin", pool={"max_size": 1, "timeout": DEADLINE})
    with django_connpool.scope("job"):
        fails(spare)
        assert pid(other)
