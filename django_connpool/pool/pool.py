"""The connection pool, as its users see it. How it works inside: see core.py."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any

import psycopg
from psycopg import OperationalError

from django_connpool.process import ending
from django_connpool.process.background import AT_ONCE, NEVER
from django_connpool.redaction import one_line, public
from django_connpool.session.closing import await_end, bury, say_goodbye
from django_connpool.session.liveness import ping
from django_connpool.session.returning import returning
from django_connpool.session.statements import Judge

from . import explain
from .abc import (
    CT,
    CheckParam,
    ConnectFailedCB,
    ConnectionCB,
    ConninfoParam,
    KwargsParam,
    ResetParam,
)
from .errors import PoolClosed, PoolTimeout
from .lending import Lending
from .locking import LOCKED_AFTER
from .settings import checked_sizes, checked_times
from .slot import DRAINED, IDLE, LOAN, POOL_CLOSED, RETURNING, SURPLUS, Slot
from .stats import Stats

logger = logging.getLogger("django_connpool.pool")

PING_AFTER = 30.0  # seconds of idleness after which the socket's silence is not believed

_CONNECTION: Any = psycopg.Connection
_numbers = itertools.count(1)


class ConnectionPool(Lending[CT]):
    """A bounded pool of psycopg connections, first come, first served.

    The arguments are those of `psycopg_pool.ConnectionPool`, with the same meaning, and:

    `check`: "auto" looks at the socket at each borrow and asks the server only after
    `ping_after` seconds of idleness (30); "always" asks each time; False or None never; or
    a callable that is given the connection before each loan, its first one included, and
    raises when it is not to be served: then another is tried, as long as its borrower has time.
    `reset`: "auto" gives a session that was changed, on the server or on the connection
    object, the state it was born with (`configure` included); "always" every session, for
    what cannot be seen from outside; False or None only rolls back; or a callable.
    `reset_functions`: names of functions on the server that give state to the session, beside
    those that the pool finds by itself.
    `strict`: giving back in a transaction raises ProgrammingError instead of a warning.
    `max_uses`: loans after which a connection is replaced; 0 is no limit.
    `max_connecting`: attempts to connect under way at once.
    `jitter`: the share of `max_lifetime` by which lives are shortened at random, 0 to 1.
    `leak_after`: seconds after which a loan is reported in the log; 0 is never.
    `command_timeout`: longest a statement may run, given to the server at connect.
    `outage_patience`: how long borrowers wait for a server that has just gone to come back;
    later they get its error at once.
    `keep_min`: False opens `min_size` only once `warm` is called.
    `describe`: called at each borrow; what it returns tells in reports, by its str(), what
    the loan is for.

    `locked_after`: how long nothing moves before it is looked whether all of those for whom
    `describe` knows a name wait for each other, which is told at once.

    All times are seconds. Raises ValueError for sizes and times that make no sense.
    """

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = _CONNECTION,
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB | None = None,
        check: CheckParam = "auto",
        reset: ResetParam = "auto",
        reset_functions: Iterable[str] = (),
        strict: bool = False,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        max_uses: int = 0,
        max_connecting: int = 8,
        jitter: float = 0.1,
        leak_after: float = 0.0,
        command_timeout: float | None = None,
        outage_patience: float = 3.0,
        ping_after: float = PING_AFTER,
        locked_after: float = LOCKED_AFTER,
        keep_min: bool = True,
        describe: Callable[[], object] | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.kwargs = kwargs
        self.connection_class: Any = connection_class
        if close_returns:
            self.connection_class = returning(connection_class)
        self.name = name or f"pool-{next(_numbers)}"
        self.close_returns = close_returns
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.max_lifetime = max_lifetime
        self.max_idle = max_idle
        self.reconnect_timeout = reconnect_timeout
        self.num_workers = num_workers
        self.max_uses = max_uses
        self.max_connecting = max_connecting
        self.jitter = jitter
        self.leak_after = leak_after
        self.command_timeout = command_timeout
        self.outage_patience = outage_patience
        self._min_size, self._max_size = checked_sizes(min_size, max_size)
        checked_times(self)
        self._configure = configure
        self._check = check
        self._asks_each = bool(check) and check != "auto"
        self._reset = reset
        self._reconnect_failed = reconnect_failed
        self._describe = describe
        self._ping_after = ping_after if check == "auto" else (0.0 if check else NEVER)
        self._locked_after = locked_after
        self._restores = reset in ("auto", "always") or reset is True
        self._tidies_always = reset in ("always", True) or callable(reset)
        self._strict = strict
        self._dirt_of = Judge(reset_functions)
        self._clock = monotonic
        self._keep_min = keep_min
        self._warmed = False
        self._opened = False
        self._start_empty()
        ending.enrol(self)
        if open or open is None:
            self.open()

    @property
    def min_size(self) -> int:
        return self._min_size

    @property
    def max_size(self) -> int:
        return self._max_size

    @property
    def closed(self) -> bool:
        """Whether the pool is closed, or was not opened yet."""
        return self._closed

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to serve; with `wait`, return once `min_size` connections are open.

        Opening an open pool does nothing. Raises PoolClosed when it was closed before.
        """
        with self._lock:
            if self._closed:
                if self._opened:
                    raise PoolClosed(f"pool {self.name!r} was closed and cannot be opened again")
                self._opened = True
                self._closed = False
                self._serving = True
        self._staff()
        if wait:
            self.wait(timeout)

    def warm(self) -> None:
        """Have `min_size` connections opened, in the background, and kept from now on."""
        self._keep_min = self._warmed = True
        self._staff()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody stands in line for a connection, at this moment."""
        return bool(self._queue)

    def rest_if_unused(self) -> None:
        """Undo `warm` in a process that has forked and never borrowed itself.

        Such is the master of a server that loads the application before it forks its
        workers (gunicorn's --preload). The workers fill up at their first use.
        """
        with self._lock:
            used = self._stats.mean_hold() is not None or self._on_loan() or self._queue
            if used or not self._warmed or self._opening:
                return
            self._keep_min = self._warmed = False
            self._retire_all(SURPLUS)
        self._staff()

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until `min_size` connections are open.

        Raises PoolTimeout, and closes the pool, when that takes more than `timeout` seconds;
        PoolClosed when it is closed meanwhile.
        """
        done = threading.Event()
        with self._lock:
            self._check_open()
            self._full.append(done)
            self._tell_if_full()
        self._staff()
        if done.wait(timeout):
            self._check_open()
            return
        self.close()
        error = PoolTimeout(
            f"pool {self.name!r}: {self._min_size} connections were not open within {timeout:.2f} s"
            + (
                f"; connecting last failed with: {one_line(self._last_error)}"
                if self._last_error
                else ""
            )
        )
        raise error from (self._last_error and public(self._last_error))

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: waiters get PoolClosed, idle connections are closed.

        Loans finish in peace and are closed when given back. Waits at most `timeout`
        seconds for the closing of what was idle. Closing twice does nothing.
        """
        if self._is_put_off(partial(self.close, timeout)):
            return
        with self._lock:
            if self._closed and not self._winding_up:  # not open yet
                return
            # Again, when it was closed before: an interrupt may have struck in the middle.
            self._closed = self._winding_up = True
            self._serving = self._suspended = False
            for waiter in list(self._queue):
                waiter.error = PoolClosed(f"pool {self.name!r} was closed while waiting")
                self._queue.let_go(waiter)
            self._end_waits()
            self._dismiss_if_done()
        self._close_idle(timeout)

    def _close_idle(self, timeout: float) -> None:
        """Close what is idle, here and now: say goodbye to all, then wait for all."""
        slots: list[Slot] = []
        try:
            with self._lock:
                self._retire_all(POOL_CLOSED)
                slots += self._to_close
                self._to_close.clear()
            deadline = self._clock() + timeout
            for slot in slots:
                self._say_goodbye(slot.conn, slot.pgconn)
            for slot in slots:
                await_end(slot.end, deadline - self._clock())
                self._free(slot)
        except BaseException:
            self._dropped.append(slots)  # as in `_staff`
            self._pick_up()
            raise

    def _say_goodbye(self, conn: Any, pgconn: Any) -> None:
        """The user's own `close` may fail; that is no reason to leave the others open."""
        try:
            say_goodbye(conn, pgconn)
        except Exception as error:
            logger.info("%s: closing a connection failed: %s", self.name, one_line(error))

    def leave(self) -> None:
        """The process is ending: close what is idle, and what comes back from now on."""
        self._winding_up = True
        self._close_idle(timeout=0.0)
        self._close_for_daemons()

    def _close_for_daemons(self) -> None:
        """Say goodbye for threads that nobody waits for: they will not come to do it."""
        main = threading.main_thread().ident
        for slot in list(self._slots):
            conn = slot.ref() if slot.state is LOAN and slot.ref is not None else None
            if conn is None or slot.thread == main or not conn.lock.acquire(blocking=False):
                continue
            try:
                self._say_goodbye(conn, slot.pgconn)
            finally:
                conn.lock.release()

    def drain(self) -> None:
        """Replace every connection: idle ones now, loans when they are given back."""
        if self._is_put_off(self.drain):
            return
        with self._lock:
            self._check_open()
            self._generation += 1
            for slot in self._slots:
                slot.retire_at = AT_ONCE
            self._retire_all(DRAINED)
        self._staff()

    def check(self) -> None:
        """Try every idle connection with a round trip; replace those that fail."""
        if self._is_put_off(self.check):
            return
        with self._lock:
            slots = list(self._idle)
        for slot in slots:
            self._try(slot)
        self._staff()

    def _try(self, slot: Slot) -> None:
        """Ping one that is idle; replace it when it does not answer."""
        taken = over = False
        try:
            with self._lock:
                if slot.state is not IDLE:
                    return
                taken, slot.state = True, LOAN
                self._idle.remove(slot)
                idle_since = slot.idle_since
            alive = self._came_clean(slot, None) if slot.cleaning else ping(slot.pgconn)
            if not alive:
                if slot.state is LOAN:
                    self._discard_dead(slot)
                return
            with self._lock:
                over, slot.state = True, RETURNING
                self._settle(slot, slot.conn, self._clock())
                if slot.state is IDLE:  # or the surplus of a pool often checked would never age
                    slot.idle_since = idle_since
        except BaseException:
            if taken:  # noted first, as in `getconn`
                if slot.state is LOAN and not over:
                    slot.state = RETURNING
                self._strays.append(slot)
                self._put_back(slot)
            raise

    @staticmethod
    def check_connection(conn: CT) -> None:
        """A `check` callback: one round trip. Raises OperationalError when that fails."""
        if not ping(conn.pgconn):
            raise OperationalError("the connection did not answer")

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds while running; what is too much closes as it becomes idle."""
        sizes = checked_sizes(min_size, max_size)
        if self._is_put_off(partial(self.resize, *sizes)):
            return
        with self._lock:
            self._min_size, self._max_size = sizes
            excess = len(self._slots) - len(self._closing) - self._max_size
            for slot in self._idle[: max(0, excess)]:
                self._retire(slot, SURPLUS)
                self._idle.remove(slot)
            self._tell_if_full()
        self._staff()

    def suspend(self) -> None:
        """Lend nothing more until `resume`; borrowers wait in line, loans go on."""
        if self._is_put_off(self.suspend):
            return
        with self._lock:
            self._check_open()
            self._suspended, self._serving = True, False

    def resume(self) -> None:
        """End `suspend`: serve those in line, in order."""
        if self._is_put_off(self.resume):
            return
        with self._lock:
            self._check_open()
            self._suspended, self._serving = False, True
            self._serve_line()
        self._staff()

    def __enter__(self) -> ConnectionPool[CT]:
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def abandon(self, grave: Any) -> None:
        """In a forked child: forget the parent's connections without touching its sockets."""
        slots, was_open, suspended = list(self._slots), not self._closed, self._suspended
        self._start_empty()
        self._closed, self._suspended = not was_open, suspended
        self._serving = was_open and not suspended
        for slot in slots:
            slot.bury()
            if slot.pgconn is not None:
                bury(slot.pgconn, grave)

    def get_stats(self) -> dict[str, int]:
        """Counters since the pool was made, and sizes now; psycopg_pool's keys and ours."""
        with self._lock:
            return self._stats.as_dict() | self._measures()

    def pop_stats(self) -> dict[str, int]:
        """As `get_stats`, and start counting anew."""
        with self._lock:
            stats, self._stats = self._stats, Stats(self._stats.mean_hold())
            return stats.as_dict() | self._measures()

    def snapshot(self) -> dict[str, Any]:
        """Everything there is to see, at one moment; opens nothing. Times are seconds."""
        with self._lock:
            seen = self._snapshot()
            seen["histograms"] = self._stats.histograms()
            seen["closed_for"] = dict(self._stats.closed)
        # Without the lock: what other threads' frames let go of meanwhile dies here.
        explain.locate(seen["loans"])
        return seen
