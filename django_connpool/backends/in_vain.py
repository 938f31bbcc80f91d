"""A piece of work that has waited for a connection in vain does not wait again.

What follows an error borrows too: the page that tells of it, the `repr` of a queryset in it, a
handler. Each would wait as long as the first. So the work is told the same error at once, unless
a connection is free by then; until something of its own was given back to that pool.
"""

from __future__ import annotations

from typing import Any

from django_connpool.connection_pool import ConnectionPool
from django_connpool.errors import PoolTimeout, TooManyRequests
from django_connpool.pool.outage import again
from django_connpool.scopes import Scope


def getconn(pool: ConnectionPool[Any], work: Scope) -> Any:
    """Borrow for work that has waited in vain, without waiting where it has done so.

    Raises what the pool does; the error of the first time again when there is nothing free.
    """
    said = work.in_vain.get(pool)
    if said is None:
        return pool.getconn()
    try:
        return pool.getconn(timeout=0)
    except PoolTimeout:
        raise again(said) from said.__cause__


def note(pool: ConnectionPool[Any], error: PoolTimeout, work: Scope | None) -> bool:
    """Remember that work has waited in vain, and what it was told; say whether that is new."""
    if work is None:
        return True
    if pool in work.in_vain:
        return False
    # Not the error itself, whose traceback would keep alive what the work has dropped.
    copy = again(error)
    copy.__cause__ = error.__cause__
    work.in_vain[pool] = copy
    return True


def note_refusal(error: TooManyRequests, work: Scope | None) -> None:
    """Remember of the work that it was not let in line, which the next time it may be."""
    if work is not None:
        work.in_vain[None] = again(error)


def forget(pool: ConnectionPool[Any], work: Scope) -> None:
    """The work has given something back to that pool."""
    work.in_vain.pop(pool, None)
    work.in_vain.pop(None, None)
