"""Connections for `async def`: tasks borrow from the same pools as threads do.

    from django_connpool import aio

    pool = aio.pools["default"]  # the pool of the ORM
    async with pool.acquire() as conn:  # a psycopg.AsyncConnection
        await conn.execute("SELECT 1")

`pools`: a mapping of alias to the `Pool` that its database has in this process.
`create_pool()`: a pool of its own, for use without Django.
`listen()`: that of `django_connpool`, which is for `async with` and `async for`, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pool import Pool, create_pool

if TYPE_CHECKING:
    from django_connpool.listening import listen

    from .databases import pools

__all__ = ["Pool", "create_pool", "listen", "pools"]


def __getattr__(name: str) -> Any:
    # Late, so that `create_pool` can be used where there is no Django.
    if name == "pools":
        from .databases import pools

        return pools
    if name == "listen":
        from django_connpool.listening import listen

        return listen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
