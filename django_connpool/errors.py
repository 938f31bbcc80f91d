"""What a pool raises. All are `psycopg.OperationalError`, so existing handlers keep working."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import OperationalError


class PoolClosed(OperationalError):
    """The pool is closed, or was never opened."""

    __module__ = "django_connpool"


class PoolTimeout(OperationalError):
    """No connection became free in time. Says who holds them, and what connecting last said.

    `numbers` has the keys pool, in_use, waiting and waited, of that moment.
    """

    __module__ = "django_connpool"
    numbers: Mapping[str, Any] = {}


class TooManyRequests(OperationalError):
    """`max_waiting` borrowers are in the queue already; this one was refused at once.

    `numbers` as a PoolTimeout's.
    """

    __module__ = "django_connpool"
    numbers: Mapping[str, Any] = {}
