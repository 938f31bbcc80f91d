"""Gives a request's connections back as soon as its response exists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import chain
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.handlers.exception import response_for_exception
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from . import overload, requests, scopes
from .borrowing import (
    before_work,
    before_work_in_its_thread,
    release_between,
    release_between_in_its_thread,
    release_in_its_thread,
    release_loans,
    settle,
    warm,
)
from .process import forks

# Kinds of streams whose clients wait for the header before anything happens.
EVENTS = frozenset(
    {
        *("text/event-stream", "application/x-ndjson", "application/json-seq"),
        "multipart/x-mixed-replace",
    }
)


class ConnectionPoolMiddleware:
    """Put it first: it should be the last to see the response, when nobody queries any more.

    Without it Django's own signals give back, but only after the response was sent, and a
    slow client can take its time. A streaming body that queries borrows again, and gives back
    after each part, unless it is in a transaction or has a cursor open, and at its end.

    A request that gets no connection in time is answered 503: see overload.py.
    """

    sync_capable = True
    async_capable = True
    gives_back_connections = True  # of which checks know it, and what inherits from it

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        self.serves = False
        self.retry_after = overload.retry_after()
        settle()
        requests.disconnect()  # last: with the first pool they are connected

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if not self.serves:
            self._begin_to_serve()
        if self.is_async:
            return self._handle(request)
        before_work()
        with scopes.entered(f"{request.method} {request.path}") as work:
            try:
                response: HttpResponseBase = self.get_response(request)
                if response.status_code == 500 and work.in_vain and not work.has_fault:
                    response = self._blame(work, request, response)
            finally:
                release_loans(work)
        return self._stream(request, response, work.note) if response.streaming else response

    def _begin_to_serve(self) -> None:
        """At the first request. Before that, a process may as well be one that forks others."""
        self.serves = True
        forks.notice()
        warm()

    async def _handle(self, request: HttpRequest) -> HttpResponseBase:
        await before_work_in_its_thread()
        with scopes.entered(f"{request.method} {request.path}") as work:
            work.is_of_this_task()
            has_failed = True
            try:
                response: HttpResponseBase = await self.get_response(request)
                if response.status_code == 500 and work.in_vain and not work.has_fault:
                    # As Django does: what handles the log, or renders a page, may block.
                    blame = sync_to_async(self._blame, thread_sensitive=False)
                    response = await blame(work, request, response)
                has_failed = False
            finally:
                await release_in_its_thread(work, has_failed=has_failed)
        if response.streaming:
            return await self._stream_async(request, response, work.note)
        return response

    # -- Overload -------------------------------------------------------------------------

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Of a view, also an async one. With DEBUG, Django's page of the error is the answer."""
        met = overload.met_in(error)
        work = scopes.current.get()
        if work is not None:
            work.has_fault = not overload.is_behind(error)
        if self.retry_after is None or met is None:
            return None
        if settings.DEBUG:
            if work is not None and not work.in_vain:
                work.in_vain[None] = met
            return None
        overload.tell(request, met)
        return overload.refusal(request, self.retry_after)

    def _blame(
        self, work: scopes.Scope, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """What was made of an error by others, in work that is still without its connection."""
        if self.retry_after is None:
            return response
        overload.tell(request, next(iter(work.in_vain.values())))
        return overload.made_one(response, self.retry_after)

    # -- Streaming ------------------------------------------------------------------------

    def _stream(
        self, request: HttpRequest, response: HttpResponseBase, name: str | None
    ) -> HttpResponseBase:
        """Have it give back after each part of its body and at its end.

        Its first part is made at once, for the sake of the status: a WSGI server sends no header
        before the first part either.
        """
        # A file needs no database, and its server may have a faster way to send it.
        if isinstance(response, FileResponse):
            return response
        streaming: Any = response
        if streaming.is_async:  # Django reads all of it before it sends any
            streaming.streaming_content = _each_async(streaming.streaming_content, name)
            return response
        streaming.streaming_content = parts = _each(streaming.streaming_content, name)
        if self.retry_after is not None:
            try:
                streaming.streaming_content = chain([next(parts)], parts)
            except StopIteration:
                pass
            except Exception as error:
                if refused := self._refused(request, streaming, error):
                    return refused
                streaming.streaming_content = map(_fail, (error,))  # where it would have without us
        return response

    async def _stream_async(
        self, request: HttpRequest, response: HttpResponseBase, name: str | None
    ) -> HttpResponseBase:
        """The same, but where clients wait for the header: an ASGI server sends it at once."""
        if isinstance(response, FileResponse):
            return response
        streaming: Any = response
        if not streaming.is_async:  # Django reads all of it before it sends any
            streaming.streaming_content = _each(streaming.streaming_content, name)
            return response
        streaming.streaming_content = parts = _each_async(streaming.streaming_content, name)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self.retry_after is not None and kind not in EVENTS:
            try:
                streaming.streaming_content = _followed(await anext(parts), parts)
            except StopAsyncIteration:
                pass
            except Exception as error:
                refuse = sync_to_async(self._refused, thread_sensitive=False)
                if refused := await refuse(request, streaming, error):
                    return refused
                streaming.streaming_content = _failing_async(error)
        return response

    def _refused(
        self, request: HttpRequest, streaming: Any, error: Exception
    ) -> HttpResponseBase | None:
        """The answer instead of a stream whose first part has failed, if that was overload."""
        met = overload.met_in(error)
        if self.retry_after is None or met is None:
            return None
        overload.tell(request, met)
        refused: Any
        if settings.DEBUG:
            refused = overload.made_one(response_for_exception(request, error), self.retry_after)
        else:
            refused = overload.refusal(request, self.retry_after)
        refused._resource_closers += streaming._resource_closers
        return cast(HttpResponseBase, refused)


def _fail(error: Exception) -> bytes:
    raise error


async def _failing_async(error: Exception) -> AsyncIterator[bytes]:
    for part in map(_fail, (error,)):
        yield part


async def _followed(first: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in parts:
        yield part


def _each(body: Iterator[bytes], name: str | None) -> Iterator[bytes]:
    with scopes.standing(name) as work:
        try:
            while True:
                # Entered for each part only: between two, this thread serves others.
                token = scopes.current.set(work)
                try:
                    part = next(body)
                    if work.borrowers:
                        release_between(work)
                except StopIteration:
                    return
                finally:
                    scopes.current.reset(token)
                yield part
        finally:
            release_loans(work)


async def _each_async(body: AsyncIterator[bytes], name: str | None) -> AsyncIterator[bytes]:
    with scopes.standing(name) as work:
        work.is_of_this_task()
        has_failed = True
        try:
            while True:
                token = scopes.current.set(work)
                try:
                    part = await anext(body)
                    if work.borrowers:
                        await release_between_in_its_thread(work)
                except StopAsyncIteration:
                    has_failed = False
                    return
                finally:
                    scopes.current.reset(token)
                yield part
        finally:
            await release_in_its_thread(work, has_failed=has_failed)
