"""Giving back by hand, and warming up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.transaction import TransactionManagementError

from .registry import is_pooled


def _borrowers(using: str | None) -> list[Any]:
    """The pooled database wrappers of this thread, of one alias or of all."""
    if using is not None:
        return [connections[using]]
    return [wrapper for wrapper in connections.all(initialized_only=True) if is_pooled(wrapper)]


def release(using: str | None = None) -> None:
    """Give this thread's connections back now, of one alias or of all.

    What is inside an atomic block stays: giving it back would end its transaction.
    The next query borrows again.
    """
    for wrapper in _borrowers(using):
        if wrapper.connection is not None and not wrapper.in_atomic_block:
            wrapper.close()


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
