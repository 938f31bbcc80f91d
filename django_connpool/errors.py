"""What a pool raises. All are `psycopg.OperationalError`, so existing handlers keep working."""

from __future__ import annotations

from psycopg import OperationalError


class PoolClosed(OperationalError):
    """The pool is closed, or was never opened."""

    __module__ = "django_connpool"


class PoolTimeout(OperationalError):
    """No connection became free in time. Says who holds them, and what connecting last said."""

    __module__ = "django_connpool"


class TooManyRequests(OperationalError):
    """`max_waiting` borrowers are in the queue already; this one was refused at once."""

    __module__ = "django_connpool"
