"""`listen()`: what is told by NOTIFY, on one connection for all listeners of a process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg import OperationalError

from . import conf, registry
from .connection_pool import ConnectionPool
from .errors import PoolClosed
from .pool.outage import again
from .process.background import NEVER
from .readers import PGBOUNCER
from .redaction import one_line
from .session.channels import GAP, Notification, check_names
from .session.refusals import heals
from .switchboard import Hub, hub_of

__all__ = ["Listener", "Notification", "listen"]

T = TypeVar("T")

MOST_KEPT = 10_000  # notifications that a listener has not taken; with one more all are given up


def listen(alias: str, *channels: str, timeout: float | None = None) -> Listener:
    """Listen to channels of a database: a block, and an iterator of `Notification`.

        with django_connpool.listen("default", "orders") as notifications:
            for notification in notifications:
                ...

    `async with` and `async for` do the same. Nothing is missed that is told from the beginning of
    the block on; or an item with `missed` says that something may have been, as after a lost
    connection. The loop ends after `timeout` seconds without a notification, and when the listener
    is closed.
    """
    check_names(channels)
    wrapper = connections[alias]
    if not registry.is_pooled(wrapper):
        raise ImproperlyConfigured(f"listen(): the database {alias!r} is not pooled")
    options = conf.parse(wrapper.settings_dict)
    if options is not None and options.behind == PGBOUNCER:
        raise ImproperlyConfigured(
            f"listen(): the database {alias!r} stands behind a pooler (pool option 'behind'), "
            "which loses notifications: listen by an alias that leads to the server itself"
        )
    return Listener(alias, frozenset(channels), timeout)


class Listener:
    """Who listens. May be used by several threads and tasks, each item goes to one of them."""

    def __init__(self, alias: str, channels: frozenset[str], timeout: float | None) -> None:
        self.alias = alias
        self.channels = channels
        self.timeout = timeout
        self.closed = False
        self._hub: Hub | None = None
        self._life = 0  # of the hub, in which this has joined it; another one is a forked child's
        # The hub's lock guards the next two.
        self.is_ready = False  # its channels are listened to
        self.is_behind = False  # and were before, until the connection was lost
        self._has_begun = False
        # Appended to by the hub, taken from by whoever comes; each step is atomic.
        self._items: deque[Notification] = deque()
        self._wakers: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<listener to {', '.join(sorted(self.channels))} of {self.alias!r}>"

    def close(self) -> None:
        """Listen no more; who waits gets nothing. Closing twice does nothing."""
        self.closed = True
        if self._hub is not None:
            self._hub.leave_it(self)
        self.wake()

    def __enter__(self) -> Listener:
        self._wait(self._began, self._patience())
        self._require_begun()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Listener:
        await self._await(self._began, self._patience())
        self._require_begun()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Notification]:
        while (item := self.get(self.timeout)) is not None:
            yield item

    async def __aiter__(self) -> AsyncIterator[Notification]:
        while (item := await self.aget(self.timeout)) is not None:
            yield item

    def get(self, timeout: float | None = None) -> Notification | None:
        """The next one; None after `timeout` seconds, and when the listener is closed.

        Raises OperationalError when it cannot begin to listen, and PoolClosed when the pool of
        its database is closed.
        """
        if not self._has_begun:
            self.__enter__()
        return self._wait(self._next, timeout)

    async def aget(self, timeout: float | None = None) -> Notification | None:
        """As `get`."""
        if not self._has_begun:
            await self.__aenter__()
        return await self._await(self._next, timeout)

    # -- Waiting ----------------------------------------------------------------------------

    def _wait(self, look: Callable[[], T | None], timeout: float | None) -> T | None:
        """What `look` finds once something has happened; None after so long, or once closed."""
        until = NEVER if timeout is None else monotonic() + timeout
        event = threading.Event()
        self._wakers.append(event.set)
        try:
            while True:
                event.clear()
                found = look()  # after `clear`: whoever comes from here on is heard
                left = until - monotonic()
                if found is not None or self.closed or left <= 0:
                    return found
                event.wait(None if until == NEVER else left)
        finally:
            self._wakers.remove(event.set)

    async def _await(self, look: Callable[[], T | None], timeout: float | None) -> T | None:
        until = NEVER if timeout is None else monotonic() + timeout
        event = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        self._wakers.append(wake)
        try:
            while True:
                event.clear()
                found = look()
                left = until - monotonic()
                if found is not None or self.closed or left <= 0:
                    return found
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(event.wait(), None if until == NEVER else left)
        finally:
            self._wakers.remove(wake)

    def wake(self) -> None:
        """Have those who wait look again. In any thread."""
        for wake in list(self._wakers):
            with suppress(RuntimeError):  # its event loop is closed
                wake()

    # -- What there is ------------------------------------------------------------------------

    def put(self, *items: Notification) -> None:
        """For the hub. Whoever does not keep up is told that he has missed something."""
        if len(self._items) + len(items) > MOST_KEPT:
            self._items.clear()
            items = (GAP,)
        self._items.extend(items)
        self.wake()

    def _next(self) -> Notification | None:
        if self.closed:
            return None
        if self._hub is not None and self._life != self._hub.life:
            self._join()
        with suppress(IndexError):
            return self._items.popleft()
        self._join()
        return None

    def _began(self) -> bool | None:
        """Whether it listens; None as long as that is not known. Raises what keeps it from it."""
        if self.closed:
            raise OperationalError(f"{self!r} is closed")
        hub = self._join()
        if self.is_ready:
            self._has_begun = True
            return True
        if (error := hub.error) is not None and not heals(error):
            self._give_up()
            raise again(error)
        return None

    def _require_begun(self) -> None:
        if self._has_begun:
            return
        error = None if self._hub is None else self._hub.error
        self._give_up()
        told = f": {one_line(error)}" if error is not None else ""
        raise OperationalError(f"{self!r} got no connection in time{told}") from error

    def _give_up(self) -> None:
        if self._hub is not None:
            self._hub.leave_it(self)
        self._hub = None

    def _patience(self) -> float:
        timeout: float = _pool(self.alias).timeout
        return timeout

    def _join(self) -> Hub:
        """The hub of its database, which it has joined. Raises PoolClosed."""
        if self._hub is None:
            self._hub = hub_of(_pool(self.alias), _counts(self.alias))
            self._life = self._hub.join(self)
        elif self._life != self._hub.life:  # of the parent's, until this was forked
            self._items.clear()
            self._life = self._hub.join(self, behind=True)
        elif self._hub.closed:
            raise PoolClosed(f"{self!r}: the pool of {self.alias!r} was closed")
        return self._hub


def _counts(alias: str) -> bool:
    options = conf.parse(connections[alias].settings_dict)
    return options is not None and options.listen_counts


def _pool(alias: str) -> ConnectionPool[Any]:
    wrapper: Any = connections[alias]
    pool: ConnectionPool[Any] = wrapper.pool
    return pool
