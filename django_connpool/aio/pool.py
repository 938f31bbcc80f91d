"""A pool as tasks see it. The names are asyncpg's where the concept is, else psycopg_pool's."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.abc import Params, Query

from django_connpool.connection_pool import ConnectionPool
from django_connpool.errors import PoolClosed, PoolTimeout
from django_connpool.session.rest import IN_TRANSACTION
from django_connpool.session.twin import cut_off, ending, is_at_work, twin_of

Conn: TypeAlias = AsyncConnection[Any]

# Options of ConnectionPool that are functions, which are called in a thread.
_CALLED = ("configure", "check", "reset", "reconnect_failed")


class Acquire:
    """What `acquire()` returns: a block that has a connection, or what is awaited to get one.

    The block ends as psycopg's own: with a transaction left open it commits, and when it raises it
    rolls back.
    """

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: Pool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: Conn | None = None

    def __await__(self) -> Generator[Any, Any, Conn]:
        return self._pool.getconn(self._timeout).__await__()

    async def __aenter__(self) -> Conn:
        if self._conn is not None:
            raise RuntimeError("this block is under way already: call acquire() for another")
        pool = self._pool
        lent = pool.sync.lend_at_once()
        if lent is not None:
            self._conn = twin_of(lent, pool)
        else:
            self._conn = await pool.getconn(self._timeout)
        return self._conn

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        conn, self._conn = self._conn, None
        assert conn is not None
        fails = exc_type is not None
        try:
            status = conn.pgconn.transaction_status
            if status and not fails and status in IN_TRANSACTION:  # IDLE is 0
                await conn.commit()
        finally:
            returned = self._pool.give_back(conn, rolls_back=fails)
        if returned is not None and exc_type is not GeneratorExit:  # which cannot wait
            await returned


class Pool:
    """Lends the connections of a `ConnectionPool` to tasks, as `psycopg.AsyncConnection`.

    They are in autocommit mode: each statement is a transaction of its own, unless it stands in a
    block of `transaction()`.
    """

    def __init__(self, find: Callable[[], ConnectionPool[Any]]) -> None:
        """`find` returns the pool at this moment."""
        self._find = find
        self._pool: ConnectionPool[Any] | None = None

    @property
    def sync(self) -> ConnectionPool[Any]:
        """The same pool, as threads see it: for its numbers, and for what is done to it."""
        pool = self._pool
        if pool is None or pool.closed:
            pool = self._pool = self._find()
        return pool

    @property
    def close_returns(self) -> bool:
        """Whether closing a connection gives it back: psycopg asks, from 3.3 on."""
        return bool(self.sync.close_returns)

    @property
    def name(self) -> str:
        return str(self.sync.name)

    # -- Borrowing ------------------------------------------------------------------------

    def acquire(self, timeout: float | None = None) -> Acquire:
        """Borrow for a block, waiting at most `timeout` seconds (the pool's by default).

        Or `conn = await pool.acquire()`, and then `await pool.release(conn)`.
        """
        return Acquire(self, timeout)

    @asynccontextmanager
    async def transaction(self, timeout: float | None = None) -> AsyncIterator[Conn]:
        """Borrow for a block that is one transaction: it commits, or rolls back if it raises."""
        async with self.acquire(timeout) as conn, conn.transaction():
            yield conn

    async def getconn(self, timeout: float | None = None) -> Conn:
        """Borrow a connection, to be given back by `release`.

        It belongs to the task that asks. When that ends, or nobody can reach the connection any
        more, it comes back by itself, at the price of a new one.

        Raises PoolTimeout, TooManyRequests, PoolClosed, and when there is nothing to wait for the
        server's own OperationalError at once.
        """
        while True:
            pool = self.sync
            try:
                lent = await pool.lend(timeout)
            except PoolTimeout as error:
                pool.tell_timed_out(error)
                raise
            except PoolClosed:
                if self.sync is pool:
                    raise
                continue  # with the one that has taken its place
            if lent._slot.waited:
                pool.tell_waited(lent)
            return twin_of(lent, self)

    async def release(self, conn: Conn) -> None:
        """Give a connection back. Rolls back what was left open, with a warning.

        Raises ValueError when it is not on loan from this pool.
        """
        returned = self.give_back(conn)
        if returned is not None:
            await returned

    putconn = release  # psycopg's name for it, by which it gives back itself

    def give_back(self, conn: Conn, rolls_back: bool = False) -> asyncio.Future[None] | None:
        """The same, without waiting for it: what takes time is done elsewhere.

        `rolls_back`: that a transaction is left open is as it should be.
        """
        if getattr(conn, "_pool", None) is not self:
            why = "it doesn't come from this pool"
        elif (lent := cut_off(conn)) is None:
            why = "it was given back already"
        else:
            owner: ConnectionPool[Any] = lent.__dict__["_pool"]
            under_way = ending(conn)
            if under_way is None:
                return owner.take_back(lent, rolls_back)
            complaint = owner.complaint(lent) if is_at_work(conn) else ""
            return owner.take_back_after(under_way, lent, rolls_back, complaint)
        raise ValueError(f"can't return connection to pool {self.name!r}, {why}: {conn}")

    # -- One statement --------------------------------------------------------------------

    async def fetch(
        self, query: Query, params: Params | None = None, *, row_factory: Any = None
    ) -> list[Any]:
        """All rows of a statement; none when it is not one that has rows."""
        async with self.acquire() as conn:
            cursor = await self._done(conn, query, params, row_factory)
            return await cursor.fetchall() if cursor.description else []

    async def fetchrow(
        self, query: Query, params: Params | None = None, *, row_factory: Any = None
    ) -> Any:
        """The first row of a statement, or None."""
        async with self.acquire() as conn:
            cursor = await self._done(conn, query, params, row_factory)
            return await cursor.fetchone() if cursor.description else None

    async def fetchval(self, query: Query, params: Params | None = None) -> Any:
        """The first column of the first row of a statement, or None."""
        row = await self.fetchrow(query, params, row_factory=_as_tuple)
        return row[0] if row else None

    async def execute(self, query: Query, params: Params | None = None) -> str:
        """Do a statement, and return what the server says of it, such as "INSERT 0 1"."""
        async with self.acquire() as conn:
            return (await self._done(conn, query, params)).statusmessage or ""

    async def _done(
        self, conn: Conn, query: Any, params: Params | None, row_factory: Any = None
    ) -> AsyncCursor[Any]:
        cursor = conn.cursor(row_factory=row_factory) if row_factory else conn.cursor()
        return await cursor.execute(query, params)

    # -- The pool as a whole --------------------------------------------------------------

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to serve; with `wait`, return once `min_size` connections are open."""
        pool = self.sync
        pool.open()
        if wait:
            await asyncio.to_thread(pool.wait, timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool: waiters get PoolClosed, idle connections are closed.

        Loans finish in peace and are closed when given back. Waits at most `timeout` seconds for
        the closing of what was idle.
        """
        await asyncio.to_thread(self.sync.close, timeout)

    def __await__(self) -> Generator[Any, Any, Pool]:
        yield from self.open().__await__()
        return self

    async def __aenter__(self) -> Pool:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.name!r}>"


def create_pool(
    conninfo: str | Callable[[], str] = "",
    *,
    min_size: int = 0,
    max_size: int = 10,
    timeout: float = 10.0,
    command_timeout: float | None = None,
    **options: Any,
) -> Pool:
    """A pool of its own, to be used as `async with create_pool(...) as pool`, or awaited.

    The options are those of `ConnectionPool`, and their functions (`configure`, `check`, `reset`)
    are plain ones: they are called in a thread, with a `psycopg.Connection`.
    """
    for name in _CALLED:
        if inspect.iscoroutinefunction(options.get(name)):
            raise TypeError(
                f"{name} must be a plain function: it is called in a thread, with a "
                "psycopg.Connection"
            )
    kind = options.get("connection_class")
    if isinstance(kind, type) and issubclass(kind, AsyncConnection):
        raise TypeError(
            "connection_class is what a pool opens, a psycopg.Connection; tasks get an "
            "AsyncConnection on the same socket"
        )
    pool: ConnectionPool[Any] = ConnectionPool(
        conninfo,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        command_timeout=command_timeout,
        open=False,
        **options,
    )
    return Pool(lambda: pool)


def _as_tuple(cursor: Any) -> Callable[[Any], Any]:
    return tuple
