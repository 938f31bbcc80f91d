"""A block of code that has a connection of a pool's."""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import psycopg
from psycopg import Connection

from .errors import PoolTimeout
from .pool.pool import Pool
from .session.private import is_in_two_phase
from .session.rest import is_idle

CT = TypeVar("CT", bound="psycopg.Connection[Any]")


class Loan(ContextDecorator, Generic[CT]):
    """What `ConnectionPool.connection()` returns: borrows when the block begins.

    Around a function it borrows anew for each call. A class by hand, because a generator
    with `contextmanager` costs as much as half a loan.
    """

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: Pool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: CT | None = None

    def _recreate_cm(self) -> Loan[CT]:  # ContextDecorator asks for one for each call
        return Loan(self._pool, self._timeout)

    def __enter__(self) -> CT:
        if self._conn is not None:
            raise RuntimeError("this block is under way already: call connection() for another")
        try:
            self._conn = conn = cast(CT, self._pool.getconn(self._timeout))
        except PoolTimeout as error:
            self._pool.tell_timed_out(error)
            raise
        if conn._slot.waited:  # type: ignore[attr-defined]
            self._pool.tell_waited(conn)
        return conn

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        conn, self._conn = self._conn, None
        assert conn is not None
        try:
            if exc_type is not None or not _has_nothing_to_commit(conn):
                conn.__exit__(exc_type, exc_val, exc_tb)
        finally:
            self._pool.putconn(conn)


def _has_nothing_to_commit(conn: Connection[object]) -> bool:
    """Whether psycopg would find nothing to do at the end of a `with` block."""
    made = type(conn)
    return (
        made.__exit__ is Connection.__exit__
        and made.commit is Connection.commit
        and is_idle(conn)
        and not is_in_two_phase(conn)
    )
