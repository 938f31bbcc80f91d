"""A Django database backend that borrows PostgreSQL connections from a bounded pool.

Set `ENGINE` to "django_connpool.backends.postgresql". What can be called from Python:

`pools`: a mapping of alias to the `ConnectionPool` that serves it in this process.
`ConnectionPool`: the pool as such, usable without Django, and what it raises: `PoolClosed`,
`PoolTimeout`, `TooManyRequests`.
`hold()`: a block with another value of the option `release`.
`listen()`: what is told by NOTIFY, on one connection for all listeners of the process.
`pinned()`: a block that keeps one connection.
`priority()`: a block of work that may take what is reserved, or that is limited.
`release()`: give this thread's connections back now.
`released()`: a block without a connection.
`scope()`: a piece of work that has a name, and gives back at its end.
`warm()`: open `min_size` connections of every pool, in the background.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .borrowing import hold, pinned, priority, release, released, scope, warm
    from .connection_pool import ConnectionPool
    from .errors import PoolClosed, PoolTimeout, TooManyRequests
    from .listening import listen
    from .registry import pools

    __version__: str

_OF_BORROWING = ("hold", "pinned", "priority", "release", "released", "scope", "warm")
_OF_THE_POOL = ("ConnectionPool", "PoolClosed", "PoolTimeout", "TooManyRequests")

__all__ = [
    "ConnectionPool",
    "PoolClosed",
    "PoolTimeout",
    "TooManyRequests",
    "hold",
    "listen",
    "pinned",
    "pools",
    "priority",
    "release",
    "released",
    "scope",
    "warm",
]


def __getattr__(name: str) -> Any:
    # Late, so that the pool can be used where there is no Django.
    if name in _OF_BORROWING:
        from . import borrowing

        return getattr(borrowing, name)
    if name in _OF_THE_POOL:
        from . import connection_pool

        return getattr(connection_pool, name)
    if name == "listen":
        from .listening import listen

        return listen
    if name == "__version__":
        return _version()
    if name == "pools":
        from .registry import pools

        return pools
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _version() -> str:
    """What is installed; "unknown" where the folder alone was copied, as into a zipped app."""
    from importlib import metadata

    try:
        return metadata.version("django-connpool")
    except metadata.PackageNotFoundError:
        return "unknown"
