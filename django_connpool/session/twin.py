"""What a task gets of a session: psycopg's async connection, on the socket of the sync one.

It is made anew for each loan, so that what its borrower sets on the object goes with it, and it is
of no use any more when it has been given back. What lasts is the session's: both objects have the
same adapters, know the same of prepared statements, and tell the same `Changes` of each statement.

Made of psycopg's private names, as fronts.py is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import Lock
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import ref

from psycopg import Error, Notify, OperationalError
from psycopg.connection_async import AsyncConnection
from psycopg.cursor_async import AsyncCursor
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.waiting import wait_async

from django_connpool.process.cpython import running_loop

from . import private
from .changes import SANE, Changes
from .foreign import BaseCursor, Connection, Cursor, behind
from .fronts import Watched, WatchedNamed, WatchedPlain, is_plain, looks_up, with_front
from .statements import Judge

IS_OVER = "the connection has been given back to its pool"
END_TIMEOUT = 5.0  # seconds for a statement to end that was cancelled
_AGAIN = 0.25  # seconds after which the server is told once more to end a statement
_HANG_UP_TIMEOUT = 1.0  # seconds for it to notice that the connection is ended
_INTERVAL = 0.1  # seconds, psycopg's own, after which it looks at the socket in any case
_FORGET_SEQUENCES = b"DISCARD SEQUENCES"

_AsyncServerCursor: Any = AsyncConnection.__init__.__globals__["AsyncServerCursor"]


class _NoPgconn:
    """Stands for the connection to the server of an object that has been given back."""

    status = ConnStatus.BAD
    transaction_status = TransactionStatus.UNKNOWN
    pipeline_status = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise OperationalError(IS_OVER)


_NO_PGCONN: Any = _NoPgconn()


class _AwaitedNamed(WatchedNamed):
    """In front of psycopg's async server-side cursor."""

    _close: Any

    async def close(self) -> None:  # type: ignore[override]
        if self._conn.pgconn is _NO_PGCONN:
            self._close()
        else:
            await super(WatchedNamed, self).close()  # type: ignore[misc]


class _AwaitedPlain(WatchedPlain):
    """In front of psycopg's async cursor, where that is made as the sync one is."""

    stream: Any = AsyncCursor.stream

    def _start_query(self, query: Any = None) -> Any:
        started = super()._start_query(query)
        conn = self._conn
        return conn._start_query() if conn._forgets else started


class Twin(AsyncConnection[Any]):
    """An async connection that is on loan, until it is `cut_off`."""

    __module__ = "psycopg"

    _lent: Any = None  # what the pool has lent: alive as long as somebody can reach this
    _changes: Changes
    _ending: asyncio.Future[None] | None = None  # of a statement that was cancelled
    _is_at_work = False  # something waits for its server
    _forgets = False  # the sequences' numbers of earlier loans, before the next statement

    def _start_query(self) -> Any:
        changes = self._changes
        if changes.announced:
            changes.announced = False
        else:
            changes.expect_the_worst()
        if self.pgconn.pipeline_status and not self._pipeline:
            raise OperationalError(
                "a statement that was interrupted is still under way: close the connection"
            )
        if self._forgets:
            return self._after_forgetting()
        return () if self._autocommit else super()._start_query()

    def forget_sequences(self) -> None:
        """Do it before the next statement, which is about to begin; see `Changes`."""
        self._forgets = True

    def _after_forgetting(self) -> Generator[Any, Any, None]:
        self._forgets = False
        if self.pgconn.transaction_status in SANE:
            yield from self._exec_command(_FORGET_SEQUENCES)
        yield from super()._start_query()

    # -- Cancellation ---------------------------------------------------------------------

    async def wait(  # type: ignore[override]  # the time limit is newer than psycopg 3.2
        self, gen: Any, interval: float = _INTERVAL, **limits: Any
    ) -> Any:
        """As psycopg's, but what ends a statement that is cancelled goes on by itself.

        psycopg does it in the task that is being cancelled. Where that is told so at each await,
        as anyio does, the connection would be closed while its server still works.
        """
        if self._lent is None:
            raise OperationalError(IS_OVER)
        if (under_way := ending(self)) is not None:
            await asyncio.shield(under_way)
        self._is_at_work = True
        try:
            return await wait_async(gen, self.pgconn.socket, interval, **limits)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await asyncio.shield(self._begin_ending(self._end(gen)))
            raise
        finally:
            self._is_at_work = False

    def _begin_ending(self, work: Any) -> asyncio.Future[None]:
        # Kept by its loop alone, which knows each time limit: it goes when that is closed.
        ending: asyncio.Future[None] = asyncio.ensure_future(work)
        self._ending = ending
        return ending

    async def _end(self, gen: Any) -> None:
        """Have the server end what it is busy with, and take its answer.

        What cannot be ended in time is found in the middle of it, when it is given back.
        """
        answer = wait_async(gen, self.pgconn.socket, _INTERVAL)
        waiting = asyncio.ensure_future(asyncio.wait_for(answer, END_TIMEOUT))
        while not waiting.done():
            await self._tell_server()
            await asyncio.wait([waiting], timeout=_AGAIN)
        with suppress(Error, OSError, asyncio.TimeoutError):
            await waiting

    async def _tell_server(self) -> None:
        """Have it end its statement. It does not hear of that before it has begun with it."""
        with suppress(Error, OSError, asyncio.TimeoutError):
            await self.cancel_safe(timeout=END_TIMEOUT)

    async def _stop(self, conn: Any) -> None:
        """Have another task that waits for the server stop, for the connection was given back.

        To close it meanwhile would be to free what psycopg's C code is at. What the server does
        not end is ended by hanging up, and then the session is of no more use.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + END_TIMEOUT
        while self._is_busy() and loop.time() < give_up:
            await self._tell_server()
            await self._is_left(_AGAIN)
        for how in (socket.SHUT_WR, socket.SHUT_RDWR):
            if self._is_at_work:
                conn._closed = True  # by us: it is no sign that the server is gone
                with suppress(Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as end:
                    end.shutdown(how)
                await self._is_left(_HANG_UP_TIMEOUT)

    def _is_busy(self) -> bool:
        return self._is_at_work and self.pgconn.transaction_status == TransactionStatus.ACTIVE

    async def _is_left(self, seconds: float) -> None:
        """Wait, at most so long, until nobody waits for the server any more."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + seconds
        while self._is_at_work and loop.time() < give_up:
            await asyncio.sleep(_INTERVAL / 20)

    def _check_connection_ok(self) -> None:
        if self.pgconn is _NO_PGCONN:
            raise OperationalError(IS_OVER)
        super()._check_connection_ok()

    def _touch(self) -> None:
        """What both objects share is about to be changed: it is put back after the loan."""
        touch = behind(self._lent).__dict__.get("_touch")
        if touch is not None:
            touch.touched = True

    # Notices are told to the handlers of the sync one, so that those of its birth hear them.

    def add_notice_handler(self, callback: Any) -> None:
        behind(self._lent).add_notice_handler(callback)

    def remove_notice_handler(self, callback: Any) -> None:
        behind(self._lent).remove_notice_handler(callback)

    # So are notifications, until somebody asks for them here.

    def add_notify_handler(self, callback: Any) -> None:
        self._hear()
        super().add_notify_handler(callback)

    def notifies(self, **limits: Any) -> AsyncGenerator[Notify]:
        self._hear()
        return super().notifies(**limits)

    def _hear(self) -> None:
        own, pgconn = self.__dict__, self.pgconn
        if "_heard_before" not in own:
            own["_heard_before"] = pgconn.notify_handler
            own["_notify_handlers"] = list(behind(self._lent)._notify_handlers)
            own["_notifies_backlog"] = deque(behind(self._lent)._notifies_backlog or ())
            pgconn.notify_handler = partial(AsyncConnection._notify_handler, ref(self))

    @property
    def prepare_threshold(self) -> int | None:
        return super().prepare_threshold

    @prepare_threshold.setter
    def prepare_threshold(self, value: int | None) -> None:
        self._touch()
        AsyncConnection.prepare_threshold.__set__(self, value)  # type: ignore[attr-defined]

    @property
    def prepared_max(self) -> int | None:
        return super().prepared_max

    @prepared_max.setter
    def prepared_max(self, value: int | None) -> None:
        self._touch()
        AsyncConnection.prepared_max.__set__(self, value)  # type: ignore[attr-defined]


Twin.__name__ = Twin.__qualname__ = "AsyncConnection"  # as which it shows


class _Late:
    """An attribute of an object, made when it is first asked for."""

    def __init__(self, name: str, kind: Any) -> None:
        self._name = name
        self._kind = kind

    def __get__(self, twin: Any, owner: type) -> Any:
        if twin is None:
            return self
        made = twin.__dict__[self._name] = self._kind()
        return made


def _mould() -> bool:
    """Have what psycopg's `__init__` leaves in an object be found in the class, so that a loan does
    not wait for it; whether that is possible.
    """
    seen = SimpleNamespace(status=ConnStatus.BAD)  # as of one that is closed
    try:
        left = dict(vars(Twin(seen)))  # type: ignore[arg-type]
    except Exception:
        return False
    for name, value in left.items():
        if isinstance(value, (list, dict, set, deque, Lock)):
            setattr(Twin, name, _Late(name, type(value)))
        elif name != "pgconn":
            setattr(Twin, name, value)
    return True


IS_MOULDED = _mould()
_INIT: Any = AsyncCursor.__init__
_CURSOR: Any = with_front(Watched, AsyncCursor)
_PLAIN_CURSOR: Any = with_front(_AwaitedPlain, AsyncCursor)
_MADE_BY = (_INIT, BaseCursor.__init__, BaseCursor._start_query)
_IS_KNOWN = looks_up(_INIT) == looks_up(Cursor.__init__) and is_plain(
    AsyncCursor, AsyncCursor, _INIT
)
_SERVER_CURSOR: Any = with_front(_AwaitedNamed, _AsyncServerCursor)
_judge = Judge()


def _made(pgconn: Any) -> Twin:
    if IS_MOULDED:
        return Twin.__new__(Twin)
    handlers = pgconn.notice_handler, pgconn.notify_handler
    twin = Twin(pgconn)
    pgconn.notice_handler, pgconn.notify_handler = handlers
    return twin


def twin_of(lent: Any, pool: Any) -> Twin:
    """An async connection in the place of one that was just lent; `pool` is what it belongs to.

    It is in autocommit mode. Raises TypeError for a connection that is not psycopg's.
    """
    conn = behind(lent)
    if not isinstance(conn, Connection):
        raise TypeError(f"{type(lent)!r} is not psycopg's: it has no async connection")
    twin = _made(conn.pgconn)
    own, found = twin.__dict__, conn.__dict__
    private.share(conn, twin)
    own["pgconn"], own["_pool"], own["_lent"] = conn.pgconn, pool, lent
    own["_slot"], own["_changes"] = found.get("_slot"), found.get("_changes") or Changes(_judge)
    # Looked at each time, because an agent may replace them at any time.
    made_by = (AsyncCursor.__init__, BaseCursor.__init__, BaseCursor._start_query)
    is_quick = _IS_KNOWN and made_by == _MADE_BY
    own["cursor_factory"] = _PLAIN_CURSOR if is_quick else _CURSOR
    own["server_cursor_factory"] = _SERVER_CURSOR
    return twin


def cut_off(twin: Any) -> Any:
    """What was lent, to be given back; None if that has been done. The twin is of no use then.

    It is to be given back when what `ending` returns is over.
    """
    lent = twin.__dict__.pop("_lent", None)
    if lent is None:
        return None
    if twin._closed:  # by its borrower
        behind(lent)._closed = True
    if twin._is_at_work and running_loop() is not None:  # in another task
        twin._begin_ending(twin._stop(behind(lent)))
    if (under_way := ending(twin)) is None:
        _cut(twin)
    else:  # which still needs it
        under_way.add_done_callback(lambda _: _cut(twin))
    return lent


def _cut(twin: Any) -> None:
    own = twin.__dict__
    pgconn, own["pgconn"] = own["pgconn"], _NO_PGCONN
    if "_heard_before" in own:
        pgconn.notify_handler = own["_heard_before"]


def ending(twin: Any) -> asyncio.Future[None] | None:
    """What ends a statement that was cancelled or left, if that is still under way.

    In a loop that is closed nothing is, and nobody else uses the connection there.
    """
    under_way: asyncio.Future[None] | None = twin._ending
    is_over = under_way is None or under_way.done() or under_way.get_loop().is_closed()
    return None if is_over else under_way


def is_at_work(twin: Any) -> bool:
    """Whether a task waits for the server with it, at this moment."""
    return bool(twin._is_at_work)
