"""Which line of the user's code a loan is said to be at, and to have been taken at."""

from __future__ import annotations

import asyncio
import linecache
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

import django_connpool
from shop.models import Category
from tests.databases import DEADLINE, Databases, in_thread, pid

begun = threading.Event()
go_on = threading.Event()


def query() -> Any:
    """One that an executor's thread does without any code of this file on its stack."""
    return Category.objects.using("spare").raw("SELECT 1 AS id")


def borrow() -> None:
    list(query())  # taken here: borrow


def hold() -> None:
    begun.set()
    go_on.wait(DEADLINE)


def sync_view(request: HttpRequest) -> HttpResponse:
    borrow()
    hold()  # at: sync_view
    return HttpResponse()


async def async_view(request: HttpRequest) -> HttpResponse:
    await sync_to_async(list)(query())  # taken here: async_view
    asyncio.get_running_loop().call_soon(begun.set)  # when it stands still below
    await awaited()
    return HttpResponse()


async def awaited() -> None:
    while not go_on.is_set():
        await asyncio.sleep(0.001)  # at: awaited


async def gathering_view(request: HttpRequest) -> HttpResponse:
    await asyncio.gather(borrow_in_a_task(), borrow_in_a_task())  # at: gathering_view
    return HttpResponse()


async def borrow_in_a_task() -> None:
    await sync_to_async(list)(query())
    begun.set()
    await awaited()


async def sync_to_async_view(request: HttpRequest) -> HttpResponse:
    await sync_to_async(in_its_thread)()
    return HttpResponse()


def in_its_thread() -> None:
    borrow()
    hold()  # at: in_its_thread


urlpatterns = [
    path(f"{view.__name__}/", view)
    for view in (sync_view, async_view, gathering_view, sync_to_async_view)
]

# Beside the lines above that say so, those in which they wait.
INSIDE = {"sync_view": "hold", "in_its_thread": "hold"}


@pytest.fixture(autouse=True)
def rewind(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    begun.clear()
    go_on.clear()
    yield
    go_on.set()


def marked(line: Any) -> str:
    """What the line of this file says of itself that a loan is said to be at."""
    assert line is not None
    found = re.fullmatch(r"(.*):(\d+) in (\w+)", line)
    assert found is not None, line
    file, number, function = found.groups()
    assert file == __file__
    comment = linecache.getline(file, int(number)).partition("# ")[2].strip()
    return comment or f"in {function}"


def the_loan(spare: Any) -> dict[str, Any]:
    (loan,) = spare.pool.snapshot()["loans"]
    assert isinstance(loan, dict)
    return loan


def asked(ask: Callable[[], Any], spare: Any) -> dict[str, Any]:
    """The loan of what `ask` does in another thread, while that holds it."""

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert begun.wait(DEADLINE)
        return the_loan(spare)
    finally:
        go_on.set()
        asking.join(DEADLINE)


def wsgi(name: str) -> Callable[[], Any]:
    return lambda: Client().get(f"/{name}/")


def asgi(name: str) -> Callable[[], Any]:
    async def ask() -> None:
        await AsyncClient().get(f"/{name}/")

    return lambda: asyncio.run(ask())


@pytest.mark.parametrize(
    ("serve", "name", "where", "taken"),
    [
        (wsgi, "sync_view", "in hold", "taken here: borrow"),
        (asgi, "sync_view", "in hold", "taken here: borrow"),
        (asgi, "async_view", "at: awaited", "taken here: async_view"),
        (wsgi, "async_view", "at: awaited", "taken here: async_view"),
        (asgi, "sync_to_async_view", "in hold", "taken here: borrow"),
        (wsgi, "sync_to_async_view", "in hold", "taken here: borrow"),
        (asgi, "gathering_view", "at: gathering_view", "at: gathering_view"),
    ],
)
@pytest.mark.parametrize("leak_after", [0, 600])
def test_the_line_of_a_request(
    databases: Databases,
    serve: Callable[[str], Callable[[], Any]],
    name: str,
    where: str,
    taken: str,
    leak_after: float,
) -> None:
    spare = databases.add(pool={"max_size": 2, "leak_after": leak_after})
    loan = asked(serve(name), spare)
    assert loan["note"] == f"GET /{name}/"
    assert marked(loan["at"]) == where
    assert (loan["taken_at"] and marked(loan["taken_at"])) == (taken if leak_after else None)


@pytest.mark.parametrize("leak_after", [0, 600])
def test_the_line_of_async_work_under_a_name(databases: Databases, leak_after: float) -> None:
    spare = databases.add(pool={"max_size": 2, "leak_after": leak_after})

    async def job() -> None:
        async with django_connpool.scope("job 17"):
            with django_connpool.scope():  # which is a part of it
                await sync_to_async(list)(query())  # taken here: job
                asyncio.get_running_loop().call_soon(begun.set)  # when it stands still below
                await awaited()

    loan = asked(lambda: asyncio.run(job()), spare)
    assert loan["note"] == "job 17"
    assert marked(loan["at"]) == "at: awaited"
    assert (loan["taken_at"] and marked(loan["taken_at"])) == (
        "taken here: job" if leak_after else None
    )


def test_the_line_of_async_work_that_runs_at_the_moment(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 2})
    loans: list[dict[str, Any]] = []

    def look() -> None:
        loans.extend(spare.pool.snapshot()["loans"])  # at: look

    async def job() -> None:
        async with django_connpool.scope("job 17"):
            await sync_to_async(list)(query())
            look()

    asyncio.run(job())
    assert marked(loans[0]["at"]) == "at: look"


def test_the_line_of_a_thread_of_an_executor(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 2, "leak_after": 600})
    with ThreadPoolExecutor(1) as executor:
        loan = asked(executor.submit(in_its_thread).result, spare)
        assert marked(loan["at"]) == "in hold"
        assert marked(loan["taken_at"]) == "taken here: borrow"
        # It waits for work, and keeps its loan.
        assert the_loan(spare)["at"] is None
        # Nobody knows who gave it that to do, and no library's line is passed off as his.
        executor.submit(django_connpool.release).result(DEADLINE)
        executor.submit(lambda: None).result(DEADLINE)
        executor.submit(list, query()).result(DEADLINE)
        assert (the_loan(spare)["at"], the_loan(spare)["taken_at"]) == (None, None)
        executor.submit(django_connpool.release).result(DEADLINE)


def test_the_line_of_a_celery_task(databases: Databases) -> None:
    celery = pytest.importorskip("celery")
    import django_connpool.contrib.celery

    assert django_connpool.contrib.celery
    spare = databases.add(pool={"max_size": 2, "leak_after": 600})
    app = celery.Celery("lines", set_as_current=False)
    task = app.task(in_its_thread, name="lines.work")
    loan = asked(lambda: task.apply(task_id="17"), spare)
    assert loan["note"] == "lines.work[17]"
    assert marked(loan["at"]) == "in hold"
    assert marked(loan["taken_at"]) == "taken here: borrow"


def test_a_timeout_names_the_line_of_an_async_holder(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": "request"})
    errors: list[str] = []

    def fail() -> None:
        with pytest.raises(Exception, match="no connection became free") as caught:
            pid(connections["spare"])
        errors.append(str(caught.value))

    asking = threading.Thread(target=asgi("async_view"))
    asking.start()
    try:
        assert begun.wait(DEADLINE)
        wrapper.pool.timeout = 0.05  # not before: the holder had to wait until one was open
        in_thread(fail)
    finally:
        go_on.set()
        asking.join(DEADLINE)
    assert "GET /async_view/, at " in errors[0]
    assert f", at {__file__}:" in errors[0]
    assert "in awaited" in errors[0]
