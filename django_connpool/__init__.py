"""A Django database backend that borrows PostgreSQL connections from a bounded pool.

Set `ENGINE` to "django_connpool.backends.postgresql". What can be called from Python:

`pools`: a mapping of alias to the `ConnectionPool` that serves it in this process.
`hold()`: a block with another value of the option `release`.
`pinned()`: a block that keeps one connection.
`release()`: give this thread's connections back now.
`released()`: a block without a connection.
`scope()`: a piece of work that has a name, and gives back at its end.
`warm()`: open `min_size` connections of every pool, in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .borrowing import hold, pinned, release, released, scope, warm
    from .registry import pools

__all__ = ["hold", "pinned", "pools", "release", "released", "scope", "warm"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late, so that `django_connpool.pool` can be imported where there is no Django.
    if name in ("hold", "pinned", "release", "released", "scope", "warm"):
        from . import borrowing

        return getattr(borrowing, name)
    if name == "pools":
        from .registry import pools

        return pools
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
