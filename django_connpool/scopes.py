"""What the running code is working on: a request, a task, or whatever its author calls it.

It tells the reports what a loan is for, and whoever ends the work what there is to give
back. It travels in a context variable, so that it follows a request into the threads in
which an async view does its queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Scope:
    """One piece of work: its name in reports, and who borrowed for it."""

    __slots__ = ("borrowers", "ended", "note")

    def __init__(self, note: str | None) -> None:
        self.note = note
        self.borrowers: set[Any] = set()  # database wrappers that hold a connection
        self.ended = False  # nobody will give back what is borrowed for it from now on


current: ContextVar[Scope | None] = ContextVar("django_connpool_scope", default=None)


def note() -> str | None:
    """The name of the work in progress, for the loan that is being made."""
    scope = current.get()
    return None if scope is None else scope.note


@contextmanager
def entered(name: str) -> Iterator[Scope]:
    """Do the block's work under that name."""
    scope = Scope(name)
    token = current.set(scope)
    try:
        yield scope
    finally:
        current.reset(token)
