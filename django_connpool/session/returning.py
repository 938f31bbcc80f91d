"""Connections whose `close()` gives back, where psycopg's own does not yet (before 3.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import psycopg

from .foreign import Connection, is_class

PSYCOPG_RETURNS = tuple(map(int, psycopg.__version__.split(".")[:2])) >= (3, 3)


def returning(connection_class: Any) -> Any:
    """What to connect with for `close_returns`; the class itself where psycopg sees to that."""
    if PSYCOPG_RETURNS or not is_class(connection_class):
        return connection_class
    if not issubclass(connection_class, Connection):
        return connection_class
    return _returning(connection_class)


@lru_cache(maxsize=64)
def _returning(connection_class: Any) -> Any:
    def close(self: Any) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None and pool.close_returns and not self.closed:
            pool.putconn(self)
        else:
            connection_class.close(self)

    return type(connection_class.__name__, (connection_class,), {"close": close})
