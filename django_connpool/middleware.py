"""Gives a request's connections back as soon as its response exists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase

from . import scopes
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


class ConnectionPoolMiddleware:
    """Put it first: it should be the last to see the response, when nobody queries any more.

    Without it Django's own signals give back, but only after the response was sent, and a
    slow client can take its time. A streaming body that queries borrows again, and gives back
    after each part, unless it is in a transaction or has a cursor open, and at its end.
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
        settle()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if not self.serves:
            self._begin_to_serve()
        if self.is_async:
            return self._handle(request)
        before_work()
        with scopes.entered(f"{request.method} {request.path}") as work:
            try:
                response: HttpResponseBase = self.get_response(request)
            finally:
                release_loans(work)
        return _releasing(response, work.note) if response.streaming else response

    def _begin_to_serve(self) -> None:
        """At the first request. Before that, a process may as well be one that forks others."""
        self.serves = True
        forks.notice()
        warm()

    async def _handle(self, request: HttpRequest) -> HttpResponseBase:
        await before_work_in_its_thread()
        with scopes.entered(f"{request.method} {request.path}") as work:
            work.is_of_this_task()
            try:
                response: HttpResponseBase = await self.get_response(request)
            finally:
                await release_in_its_thread(work)
        return _releasing(response, work.note) if response.streaming else response


def _releasing(response: HttpResponseBase, name: str | None) -> HttpResponseBase:
    """Have a streaming response give back after each part of its body and at its end."""
    # A file needs no database, and its server may have a faster way to send it.
    if isinstance(response, FileResponse):
        return response
    streaming: Any = response
    if streaming.is_async:
        streaming.streaming_content = _each_async(streaming.streaming_content, name)
    else:
        streaming.streaming_content = _each(streaming.streaming_content, name)
    return response


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
        try:
            while True:
                token = scopes.current.set(work)
                try:
                    part = await anext(body)
                    if work.borrowers:
                        await release_between_in_its_thread(work)
                except StopAsyncIteration:
                    return
                finally:
                    scopes.current.reset(token)
                yield part
        finally:
            await release_in_its_thread(work)
