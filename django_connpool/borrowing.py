"""Giving back by hand, and warming up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.transaction import TransactionManagementError

from .registry import is_pooled
from .scope import Scope


def _borrowers(using: str | None) -> list[Any]:
    """The pooled database wrappers of this thread, of one alias or of all."""
    initialized = connections.all(initialized_only=True)
    wrappers = initialized if using is None else [connections[using]]
    return [wrapper for wrapper in wrappers if is_pooled(wrapper)]


def release(using: str | None = None) -> None:
    """Give this thread's connections back now, of one alias or of all.

    What is inside an atomic block stays: giving it back would end its transaction.
    The next query borrows again.
    """
    _give_back(_borrowers(using))


def release_loans(work: Scope) -> None:
    """Give back what this thread has borrowed for that work, and nobody else's loans."""
    if work.borrowers:
        _give_back([wrapper for wrapper in _borrowers(None) if wrapper in work.borrowers])


def _give_back(wrappers: list[Any]) -> None:
    for wrapper in wrappers:
        if wrapper.connection is not None and not wrapper.in_atomic_block:
            wrapper.give_back()


@contextmanager
def released(using: str | None = None) -> Iterator[None]:
    """A block that begins without a connection, for slow work that needs none.

    Raises TransactionManagementError inside an atomic block or an open transaction, which
    would be lost.
    """
    for wrapper in _borrowers(using):
        if wrapper.in_atomic_block or (wrapper.connection is not None and not wrapper.autocommit):
            raise TransactionManagementError(
                f"released() cannot give the connection of {wrapper.alias!r} back inside a "
                "transaction: end the transaction first, or move the slow work out of it."
            )
    release(using)
    yield


def warm() -> None:
    """Open `min_size` connections of every pool, in the background, and keep them open.

    For processes that serve; the middleware calls it when it is built.
    """
    for alias in connections:
        wrapper: Any = connections[alias]
        if is_pooled(wrapper) and wrapper.pool.min_size:
            wrapper.pool.warm()
