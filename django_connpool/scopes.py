"""What the running code is working on: a request, a task, or whatever its author calls it.

It tells the reports what a loan is for, and whoever ends the work what there is to give
back. It travels in a context variable, so that it follows a request into the threads in
which an async view does its queries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import ref


class Scope:
    """One piece of work: its name in reports, and who borrowed for it."""

    __slots__ = ("borrowers", "ended", "in_vain", "note", "resumers", "task")

    def __init__(self, note: str | None) -> None:
        self.note = note  # its name; see __str__
        self.borrowers: set[Any] = set()  # database wrappers that hold a connection
        self.resumers: set[Any] = set()  # those that go on as if they held one
        self.in_vain: dict[Any, BaseException] = {}  # pools it has waited for, and what they said
        self.ended = False  # nobody will give back what is borrowed for it from now on
        self.task: ref[asyncio.Task[Any]] | None = None  # that does it, if one does

    def __str__(self) -> str:
        """What a pool calls a loan that is made for it."""
        return self.note or ""

    def is_of_this_task(self) -> None:
        """Note which task does the work: what it is at, no thread's stack tells."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # another library's event loop
            return
        self.task = ref(task) if task is not None else None

    def coroutine(self) -> Any:
        """What runs in its task; None when it has none, or is over."""
        task = self.task() if self.task is not None else None
        return task.get_coro() if task is not None and not task.done() else None


current: ContextVar[Scope | None] = ContextVar("django_connpool_scope", default=None)


@contextmanager
def entered(name: str) -> Iterator[Scope]:
    """Do the block's work under that name."""
    scope = Scope(name)
    token = current.set(scope)
    try:
        yield scope
    finally:
        current.reset(token)
