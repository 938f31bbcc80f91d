"""A connection pool for psycopg 3, usable without Django.

`ConnectionPool` takes the arguments and has the methods of `psycopg_pool.ConnectionPool`.
"""

from __future__ import annotations

from .errors import PoolClosed, PoolTimeout, TooManyRequests
from .pool import ConnectionPool

__all__ = ["ConnectionPool", "PoolClosed", "PoolTimeout", "TooManyRequests"]
