"""Views of the database `spare`, which the tests of requests add."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client

from django_connpool import registry
from tests.databases import pid

# Where a slow view says that it has begun, and waits.
begun = threading.Event()
go_on = threading.Event()


def ping(request: HttpRequest) -> HttpResponse:
    return HttpResponse("pong")


def backend(request: HttpRequest) -> JsonResponse:
    """Which backend served it, and what the pool says of the loan."""
    found = pid(connections["spare"])
    return JsonResponse({"pid": found, **_seen()})


async def async_backend(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pid": await sync_to_async(_pid)(), **_seen()})


def fails(request: HttpRequest) -> HttpResponse:
    pid(connections["spare"])
    raise RuntimeError("on purpose")


async def async_fails(request: HttpRequest) -> HttpResponse:
    await sync_to_async(_pid)()
    raise RuntimeError("on purpose")


def slow(request: HttpRequest) -> HttpResponse:
    pid(connections["spare"])
    begun.set()
    go_on.wait(15)
    return HttpResponse()


async def async_slow(request: HttpRequest) -> HttpResponse:
    await sync_to_async(_pid)()
    begun.set()
    for _ in range(1500):
        if go_on.is_set():
            break
        await asyncio.sleep(0.01)
    return HttpResponse()


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Queries before its body and for each of its parts."""
    pid(connections["spare"])
    return StreamingHttpResponse(_parts())


def cursor_stream(request: HttpRequest) -> StreamingHttpResponse:
    """Reads its parts from a server-side cursor, as `.iterator()` does."""
    return StreamingHttpResponse(_rows())


def stream_nothing(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["a", "b"]))


def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_async_parts())


def file(request: HttpRequest) -> FileResponse:
    pid(connections["spare"])
    return FileResponse(open(__file__, "rb"))


def nested(request: HttpRequest) -> JsonResponse:
    """Asks the site itself in the middle of a loan, and tells what is on loan afterwards."""
    first = pid(connections["spare"])
    inner = Client().get(request.GET["path"])
    loans = {pool.name: pool.snapshot()["in_use"] for _, pool in registry.live()}
    same = pid(connections["spare"]) == first
    return JsonResponse({"status": inner.status_code, "same": same, "loans": loans})


def in_transaction(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"atomic": connection.in_atomic_block, "pid": pid(connection)})


def second(request: HttpRequest) -> HttpResponse:
    pid(connections["second"])
    return HttpResponse()


@transaction.atomic(using="spare")
def atomic(request: HttpRequest) -> HttpResponse:
    pid(connections["spare"])
    return HttpResponse()


def _pid() -> int:
    # Looked up in the thread that queries, as the ORM does.
    return pid(connections["spare"])


def _parts() -> Iterator[str]:
    for _ in range(3):
        yield f"{pid(connections['spare'])}\n"


def _rows() -> Iterator[str]:
    with connections["spare"].chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for (number,) in cursor:
            yield f"{number}\n"


async def _async_parts() -> AsyncIterator[str]:
    for _ in range(3):
        yield f"{await sync_to_async(_pid)()}\n"


def _seen() -> dict[str, Any]:
    loans = connections["spare"].pool.snapshot()["loans"]
    return {"notes": [loan["note"] for loan in loans], "thread": threading.current_thread().name}
