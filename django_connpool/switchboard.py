"""The connection on which all listeners of a process listen to a database: see listening.py.

It is none of the pool's, and does not count in its `max_size`, unless `listen_counts` says so:
then it is a loan like any other, which lasts. A short-lived thread opens or borrows it, and the
background thread reads it.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from psycopg import OperationalError

from . import registry
from .errors import PoolClosed
from .process import bursts, ending, forks, threads, uwsgi
from .process.background import AT_ONCE, NEVER, background
from .redaction import one_line
from .session import channels as session_channels
from .session.channels import GAP, Channels, Notification
from .session.closing import say_goodbye

logger = bursts.logger("connecting")

FIRST_RETRY, LAST_RETRY = 0.05, 5.0  # seconds between two attempts to connect
SENDING = 0.1  # seconds after which what could not be sent is tried again
LASTS = "listen()"  # whose loan it is
LOOK_AFTER = 1.0  # seconds after which it is looked whether a thread that connects is still there


class Listener(Protocol):
    """What the hub needs of who listens. Its lock guards the two switches."""

    channels: frozenset[str]
    is_ready: bool  # its channels are listened to
    is_behind: bool  # and were before, until the connection was lost

    def put(self, *items: Notification) -> None:
        """Take these."""

    def wake(self) -> None:
        """Something is different."""


class Hub:
    """The connection on which the listeners of a database listen.

    `_lock` guards the fields below it and all that is done with the connection, which never waits.
    The background's lock is taken inside. Whoever is told of something takes no lock.
    """

    def __init__(self, pool: Any, counts: bool) -> None:
        """`counts`: its connection is one of the pool's."""
        self.name = pool.name
        self._counts = counts
        self._pool: weakref.ref[Any] = weakref.ref(pool)
        self._connect: Callable[[], Any] = pool.connection_class.connect  # see backends/opener.py
        self._ticket = background.join(self)
        self.life = 0
        self._start_empty()
        ending.enrol(self)

    def _start_empty(self) -> None:
        """When new, and in a forked child."""
        self._lock = threading.RLock()
        self.life += 1
        self.closed = False
        self._listeners: list[weakref.ref[Listener]] = []
        self._channels: Channels | None = None  # those of the connection, when there is one
        self._last: Channels | None = None  # those at the end of the process
        self._opener: threading.Thread | None = None  # who opens it
        self.error: BaseException | None = None  # why there is none
        self._lost_at: float | None = None
        self._attempts = 0  # since there was one
        self._retry_at = AT_ONCE

    # -- Who listens ------------------------------------------------------------------------

    def join(self, listener: Listener, behind: bool = False) -> int:
        """Have it told of what is notified; return the life in which that is."""
        if uwsgi.is_loading() or uwsgi.stands_still():
            raise OperationalError("listen() needs threads, which uWSGI does not run here")
        with self._lock:
            if self.closed:
                raise PoolClosed(f"the pool {self.name!r} is closed")
            if not self._forget(listener):  # an error of earlier times is none of this one's
                self.error, self._attempts, self._retry_at = None, 0, AT_ONCE
            listener.is_ready, listener.is_behind = False, behind
            self._listeners.append(weakref.ref(listener, self._listener_is_gone))
            self._tell_ready()
        self._ticket.by(AT_ONCE)
        return self.life

    def leave_it(self, listener: Listener) -> None:
        """Tell it of nothing more."""
        with self._lock:
            self._forget(listener)
            listener.is_ready = False
        self._ticket.now()

    def _forget(self, listener: Listener) -> bool:
        """Under the lock; whether there are others."""
        others = [ref for ref in self._listeners if ref() not in (listener, None)]
        self._listeners = others
        return bool(others)

    def _listener_is_gone(self, _: object) -> None:
        """For the interpreter, at any instruction."""
        self._ticket.now()

    def _living(self) -> list[Listener]:
        return [listener for ref in self._listeners if (listener := ref()) is not None]

    def _wanted(self) -> frozenset[str]:
        return frozenset().union(*(listener.channels for listener in self._living()))

    def _tell_ready(self) -> None:
        firm = frozenset() if self._channels is None else self._channels.firm
        for listener in self._living():
            if not listener.is_ready and listener.channels <= firm:
                listener.is_ready = True
                behind, listener.is_behind = listener.is_behind, False
                if behind:
                    listener.put(GAP)
                listener.wake()

    # -- The connection -----------------------------------------------------------------------

    def run(self, now: float) -> float:
        """As a task of the background: see that what is wanted is listened to."""
        with self._lock:
            wanted = self._wanted()
            if not wanted:
                self._listeners.clear()
                self._hang_up()
                self._ticket.leave()
                return NEVER
            if self._channels is None:
                return self._see_to_a_connection(now)
            try:
                self._channels.want(wanted)
            except Exception as error:
                self._lost(error)
                return AT_ONCE
            return now + (SENDING if self._channels.is_sending else session_channels.PATIENCE)

    def _see_to_a_connection(self, now: float) -> float:
        if self._opener is not None and self._opener.is_alive():
            return now + LOOK_AFTER
        if now < self._retry_at:
            return self._retry_at
        name = f"{self.name}-listener"
        self._opener = threading.Thread(target=self._open, name=name, daemon=True)
        self._retry_at = now + LAST_RETRY  # should it end without a word
        threads.start(self._opener)  # where none is to be had now, it is tried again
        return now + LOOK_AFTER

    def _open(self) -> None:
        """In a thread of its own: connect."""
        try:
            channels = self._borrow() if self._counts else Channels(self._connect())
        except PoolClosed:
            self.close()
            return
        except Exception as error:
            self._failed(error)
        else:
            with self._lock:
                if self.closed or self._opener is not threading.current_thread():
                    channels.close()
                    return
                self._opener = None
                self._channels = channels
                background.read(channels.socket, self._read)
        self._ticket.by(AT_ONCE)

    def _borrow(self) -> Channels:
        pool = self._pool()
        if pool is None:
            raise PoolClosed(f"the pool {self.name!r} is gone")
        return Borrowed(pool.getconn(), pool)

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._opener = None
            self.error = error
            longest = min(FIRST_RETRY * 2 ** min(self._attempts, 16), LAST_RETRY)
            self._attempts += 1
            self._retry_at = monotonic() + longest * random.uniform(0.5, 1.0)
            living = self._living()
        text = "%s: connecting to listen failed: %s"
        logger.warning(text, self.name, one_line(error), extra={"pool": self.name})
        for listener in living:
            listener.wake()

    def _read(self) -> None:
        """In the background: the connection has something to say."""
        with self._lock:
            if self._channels is None:
                return
            found, lost = self._channels.read()
            if self._channels.told and not lost:
                self._works()
            for listener in self._living():
                if listener.is_ready:
                    listener.put(*(item for item in found if item.channel in listener.channels))
            if lost is not None:
                self._lost(lost)
        self._ticket.by(AT_ONCE)

    def _works(self) -> None:
        self._tell_ready()
        self.error, self._attempts, self._retry_at = None, 0, AT_ONCE
        if self._lost_at is not None:
            lasted, self._lost_at = monotonic() - self._lost_at, None
            extra = {"pool": self.name, "lasted": lasted}
            logger.warning("%s: listening again, after %.1f s", self.name, lasted, extra=extra)

    def _lost(self, error: BaseException) -> None:
        """The connection is lost, or of no use."""
        told = bool(self._channels and self._channels.told)
        self._hang_up()
        for listener in self._living():
            listener.is_behind = listener.is_behind or listener.is_ready
            listener.is_ready = False
        if not told:  # refused, as by a standby
            self._failed(error)
            return
        self.error, self._lost_at = error, monotonic()
        text = "%s: the connection that listens was lost: %s"
        logger.warning(text, self.name, one_line(error), extra={"pool": self.name})

    def _hang_up(self) -> None:
        if (channels := self._take_off()) is not None:
            channels.close()

    def _take_off(self) -> Channels | None:
        """The connection, which nobody reads any more."""
        channels, self._channels, self._opener = self._channels, None, None
        if channels is not None:
            background.unread(channels.socket)
        return channels

    def close(self, seconds: float = 0.0) -> None:
        """Close it for good; who listens is told so."""
        with self._lock:
            self.closed = True
            living = self._living()
            self._listeners.clear()
            channels = self._take_off()
        self._ticket.leave()
        for listener in living:
            listener.wake()
        if channels is not None:
            channels.close(seconds)

    # -- The process --------------------------------------------------------------------------

    def abandon(self, grave: Any) -> None:
        """In a forked child."""
        channels, closed = self._channels, self.closed
        self._start_empty()
        self.closed = closed
        if channels is not None:
            channels.bury(grave)

    def rest_if_unused(self) -> None:
        """In a parent that has forked: it goes on."""

    def leave(self) -> None:
        """At the end of the process. Threads that still wait end with it, and are told nothing."""
        with self._lock:
            self.closed = True
            self._last = self._take_off()  # kept, for what is dropped comes back by itself
            if self._last is not None:
                self._last.say_goodbye()

    # -- What there is to see -----------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            channels, lost_at = self._channels, self._lost_at
            return {
                "channels": sorted(self._wanted()),
                "listeners": len(self._living()),
                "counts": self._counts,
                "backend_pid": None if channels is None else channels.backend_pid,
                "lost": None if lost_at is None else monotonic() - lost_at,
                "error": None if self.error is None else one_line(self.error),
            }


class Borrowed(Channels):
    """Of a connection that the pool has lent. Whoever closes it gives it back.

    Its lock is held meanwhile, so that nobody thinks that it is not used; see `Control.leave`.
    """

    def __init__(self, conn: Any, pool: Any) -> None:
        super().__init__(conn)
        self._pool = pool
        pool.outlive_thread(conn, LASTS)
        conn.lock.acquire()

    def close(self, seconds: float = 0.0) -> None:
        if not self._conn.broken:  # of which the pool draws its own conclusions
            super().close(seconds)
        name = f"{self._pool.name}-listener"
        thread = threading.Thread(target=self._give_back, name=name, daemon=True)
        if not threads.start(thread):  # a thread, for it may take time
            self._give_back()

    def say_goodbye(self) -> None:
        say_goodbye(self._conn, self._pgconn, None)

    def _give_back(self) -> None:
        self._conn.lock.release()
        self._pool.putconn(self._conn)


_lock = threading.RLock()  # guards the next; no other is taken inside
_hubs: weakref.WeakKeyDictionary[Any, Hub] = weakref.WeakKeyDictionary()  # by their pools


def hub_of(pool: Any, counts: bool) -> Hub:
    """That of a pool. `counts`: whether its connection is one of the pool's."""
    with _lock:
        hub = _hubs.get(pool)
        if hub is None or hub.closed:
            hub = _hubs[pool] = Hub(pool, counts)
        return hub


def of(pool: Any) -> dict[str, Any]:
    """What there is to see of those who listen beside a pool, as `listening`, if there are any."""
    with _lock:
        hub = _hubs.get(pool)
    seen = None if hub is None else hub.snapshot()
    return {"listening": seen} if seen and seen["listeners"] else {}


def _close_beside(pool: Any, timeout: float) -> None:
    """A pool is closed: what listens beside it is, too."""
    with _lock:
        hub = _hubs.pop(pool, None)
    if hub is not None:
        hub.close(timeout)


def _start_anew() -> None:
    """In a forked child."""
    global _lock
    _lock = threading.RLock()


registry.at_closing.append(_close_beside)
forks.in_child(_start_anew, forks.Floor.REGISTRY)
