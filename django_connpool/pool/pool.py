"""The connection pool: borrowing, giving back, and the life of a connection between.

How it is put together, for the reader:

* A `Slot` is a place of `max_size` with a connection in it. `_slots` holds all of them;
  each is idle (in `_idle`), on loan, being opened (in `_opening`) or closed (in `_closing`).
* `_lock` guards those collections, the queue, the outage and the counters. It is held for
  a few lines at a time and never while anything blocks.
* What blocks (connecting, closing) is done by workers: threads that live as long as there
  is such work. Deadlines are the business of the process's one maintenance thread.
* Whoever finds, under the lock, that something is to be done notes it in the collections;
  `_staff` then finds workers for it. So an interrupt can delay a piece of work, not lose it.
"""

from __future__ import annotations

import itertools
import logging
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Generic, cast

import psycopg
from psycopg import OperationalError
from psycopg.pq import TransactionStatus

from . import explain, parameters, process, reset
from .abc import (
    CT,
    CheckParam,
    ConnectFailedCB,
    ConnectionCB,
    ConninfoParam,
    KwargsParam,
    ResetParam,
)
from .closing import await_end, bury, end_of, say_goodbye
from .errors import PoolClosed, PoolTimeout, TooManyRequests
from .growth import patience, worth_opening
from .maintenance import maintenance
from .outage import Outage, again, one_line
from .owners import this_thread
from .probe import PING_TIMEOUT, LastWords, is_alive, ping
from .queue import Waiter, WaitQueue
from .settings import checked_sizes, checked_times
from .slot import (
    AT_ONCE,
    CLOSING,
    GONE,
    HANDED,
    IDLE,
    LOAN,
    NEVER,
    ON_LOAN,
    OPENING,
    RETURNING,
    Loans,
    Slot,
)
from .stats import Stats

logger = logging.getLogger("django_connpool.pool")

HANGING = 1.0  # seconds after which an attempt to connect is not counted on, at the least
SLOWEST_CONNECT = 5.0  # seconds a connect is believed to take usually, at the most
HASTIEST_PING = 0.1  # seconds a ping may take, however little time its borrower has
PING_AFTER = 30.0  # seconds of idleness after which the socket's silence is not believed
FRESH = 1.0  # seconds for which a connection just opened or given back needs no proof of life
CLOSERS = 4  # workers that close connections at the same time

# Why a connection was closed: the keys of the `closed` counts.
LOST = "lost"
EXPIRED = "expired"
SURPLUS = "surplus"
CONDEMNED = "condemned"
DRAINED = "drained"
UNUSABLE = "unusable"
RECLAIMED = "reclaimed"
POOL_CLOSED = "pool closed"

_CONNECTION: Any = psycopg.Connection
_get_ident = threading.get_ident
_get_frame = sys._getframe
_numbers = itertools.count(1)


def _nothing() -> None:
    """What a pool that does not check reads from its sockets."""


class ConnectionPool(Generic[CT]):
    """A bounded pool of psycopg connections, first come, first served.

    The arguments are those of `psycopg_pool.ConnectionPool`, with the same meaning, and:

    `check`: "auto" looks at the socket at each borrow and asks the server only after
    `ping_after` seconds of idleness (30); "always" asks each time; False or None never; or
    a callable that is given the connection and raises when it is not to be served.
    `reset`: "auto" rolls back and restores the connection object's attributes; "always"
    also sends DISCARD ALL, then has `connection_class.renew` (if there is one) and
    `configure` set the session up again; False or None only rolls back; or a callable.
    `max_uses`: loans after which a connection is replaced; 0 is no limit.
    `max_connecting`: attempts to connect under way at once.
    `jitter`: the share of `max_lifetime` by which lives are shortened at random, 0 to 1.
    `leak_after`: seconds after which a loan is reported in the log; 0 is never.
    `command_timeout`: longest a statement may run, given to the server at connect.
    `keep_min`: False opens `min_size` only once `warm` is called.
    `describe`: called at each borrow; its string tells in reports what the loan is for.

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
        max_connecting: int = 4,
        jitter: float = 0.1,
        leak_after: float = 0.0,
        command_timeout: float | None = None,
        ping_after: float = PING_AFTER,
        keep_min: bool = True,
        describe: Callable[[], str | None] | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.kwargs = kwargs
        self.connection_class = connection_class
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
        self._min_size, self._max_size = checked_sizes(min_size, max_size)
        checked_times(self)
        self._configure = configure
        self._renew = getattr(connection_class, "renew", None)
        self._check = check
        self._reset = reset
        self._reconnect_failed = reconnect_failed
        self._describe = describe
        self._ping_after = ping_after if check == "auto" else (0.0 if check else NEVER)
        self._restores = reset in ("auto", "always") or reset is True
        self._tidies_always = reset in ("always", True) or callable(reset)
        self._clock = monotonic
        self._keep_min = keep_min
        self._opened = False
        self._start_empty()
        process.enrol(self)
        if open or open is None:
            self.open()

    def _start_empty(self) -> None:
        """The state of a pool with no connection: when new, and in a forked child."""
        self._self = weakref.ref(self, _wake_maintenance)
        # Reentrant: a finalizer or signal handler may run in the middle of a section below,
        # in the thread that holds it, and borrow or give back. See `_is_reentered`.
        self._lock: Any = threading.RLock()
        # Guarded by _lock:
        self._slots: set[Slot] = set()  # every place taken, in whatever state
        self._idle: list[Slot] = []  # last given back is last, and lent first
        self._opening: set[Slot] = set()  # attempts to connect under way
        self._closing: set[Slot] = set()
        self._to_close: deque[Slot] = deque()  # those of _closing no worker has taken up
        self._queue = WaitQueue()
        self._line_since = 0.0  # when the queue was last empty
        self._moved_at = 0.0  # when somebody in it last got a connection given back
        self._grew_at = 0.0  # when an attempt to connect was last started for it
        self._serving = False  # open and not suspended: idle connections may be lent
        self._closed = True
        self._suspended = False
        self._outage: Outage | None = None
        self._last_error: BaseException | None = None
        self._generation = 0
        self._deadline = NEVER  # of the maintenance thread
        self._mean_hold: float | None = None  # seconds, moving average
        self._mean_connect = 0.0  # seconds, moving average
        self._stats = Stats()
        self._full: list[threading.Event] = []  # of those in wait()
        self._winding_up = False  # closed, or the process is ending: what comes back is closed
        # Appended to without the lock, by finalizers, at any instruction; see `orphaned`.
        self._orphans: deque[tuple[Slot, Loans | None]] = deque()
        # What there is to log; see `_tell`.
        self._news: deque[tuple[str, tuple[object, ...]]] = deque()
        # Given back by a finalizer inside the lock: the slots, and their connections.
        self._late: deque[tuple[Slot, Any]] = deque()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.name!r}>"

    # -- Borrowing ------------------------------------------------------------------------

    def getconn(self, timeout: float | None = None) -> CT:
        """Borrow a connection, waiting at most `timeout` seconds (the pool's by default).

        Give it back with `putconn`, or better use `connection()`. A connection that is
        dropped, or whose thread ends, comes back by itself, at the price of a new one.

        Raises PoolTimeout, TooManyRequests, PoolClosed, and when there is nothing to wait
        for the server's own OperationalError at once.
        """
        slot = None
        try:
            with self._lock:
                if self._serving and self._idle and (last := self._idle[-1]).state is IDLE:
                    # The order matters to an interrupt between the lines: from the first
                    # on the slot is ours to put back, and nobody else takes it.
                    slot, last.state = last, LOAN
                    del self._idle[-1]
                    self._stats.requests_num += 1
            if slot is not None:
                now = self._clock()
                if (now < slot.vet_at and is_alive(slot)) or self._is_fit(slot, now, timeout):
                    return self._lend(slot, now)
            return self._getconn_slowly(timeout, None if slot is None else now)
        except BaseException:
            if slot is not None:
                self._put_back(slot)
            raise

    def _lend(self, slot: Slot, now: float) -> CT:
        """Make the slot's connection its borrower's. The slot forgets it: see `Slot`."""
        slot.since = now
        slot.thread = _get_ident()
        slot.loans = loans = this_thread.loans
        loans.add(slot)
        if self._describe is not None:
            slot.note = self._describe()
        if self.leak_after:
            self._trace(slot)
        conn = slot.conn
        conn._pool = self
        slot.conn = None
        return conn  # type: ignore[no-any-return]

    def _is_fit(self, slot: Slot, now: float, timeout: float | None) -> bool:
        """Whether an idle connection may be served; when not, it is on its way out."""
        if now >= slot.retire_at:
            self._discard(slot, EXPIRED)
            return False
        if not is_alive(slot):
            self._discard_dead(slot)
            return False
        return now < slot.vet_at or self._passes_check(slot, timeout)

    def _passes_check(self, slot: Slot, timeout: float | None) -> bool:
        if callable(self._check):
            try:
                self._check(slot.conn)
            except Exception as error:
                logger.info("%s: a connection failed its check: %s", self.name, one_line(error))
            else:
                if reset.leave_transaction(slot.conn):
                    return True
        elif ping(slot.pgconn, self._patience_for_ping(timeout)):
            return True
        self._discard_dead(slot)
        return False

    def _patience_for_ping(self, timeout: float | None) -> float:
        seconds = self.timeout if timeout is None else timeout
        return min(PING_TIMEOUT, max(HASTIEST_PING, seconds))

    def _getconn_slowly(self, timeout: float | None, since: float | None) -> CT:
        """Borrow when there was nothing fit at hand: try the next, or wait in line."""
        if self._lock._is_owned():
            raise OperationalError(
                f"pool {self.name!r}: a finalizer or signal handler that interrupted the pool "
                "itself cannot wait for a connection"
            )
        seconds = self.timeout if timeout is None else timeout
        waiter = Waiter(self._clock() if since is None else since, tries=since is not None)
        deadline = waiter.since + seconds
        try:
            while True:
                with self._lock:
                    queued = self._stand_in_line(waiter, seconds)
                if self._news:
                    self._publish()
                if queued:
                    maintenance.attend(self._self)
                    if len(self._slots) < self._max_size or self._to_close:
                        self._staff()
                    if not waiter.wait(max(0.0, deadline - self._clock())):
                        self._leave_line(waiter, seconds)
                slot = self._accept(waiter)
                now = self._clock()
                # Given back a moment ago, it needs no ping. But it may have died unnoticed by
                # a borrower that did not use it.
                is_fresh = queued and now < slot.idle_since + FRESH
                if (is_fresh and is_alive(slot)) or self._is_fit(slot, now, deadline - now):
                    return self._lend(slot, now)
                waiter.begin_again()
        except BaseException as error:
            self._give_up(waiter, error)
            raise

    def _stand_in_line(self, waiter: Waiter, seconds: float) -> bool:
        """Under the lock: serve the waiter at once (False), queue it (True), or refuse it."""
        if self._closed:
            self._check_open()
        if self._orphans or self._late:
            self._bury_orphans()
        if self._idle and self._idle[-1].state is not IDLE:
            self._mend_idle()
        if self._serving and self._idle:
            last = self._idle[-1]
            waiter.slot, last.state = last, HANDED
            del self._idle[-1]
            self._stats.requests_num += not waiter.tries
            return False
        outage = self._outage
        if outage is not None and self._is_hopeless() and self._clock() < outage.hurry():
            raise again(outage.error)
        if seconds <= 0:
            raise self._timeout(seconds)
        if self.max_waiting and len(self._queue) >= self.max_waiting and not waiter.tries:
            raise TooManyRequests(
                f"pool {self.name!r}: {len(self._queue)} borrowers are waiting already, "
                f"and max_waiting is {self.max_waiting}"
            )
        self._stats.requests_queued += not waiter.tries
        self._stats.requests_num += not waiter.tries
        if not self._queue:
            self._line_since = self._clock()
        self._queue.join(waiter)
        return True

    def _leave_line(self, waiter: Waiter, seconds: float) -> None:
        """Give up waiting, unless served at the last moment. Raises PoolTimeout."""
        with self._lock:
            self._queue.leave(waiter)
            if waiter.slot is None and waiter.error is None:
                raise self._timeout(seconds)

    def _accept(self, waiter: Waiter) -> Slot:
        """What came of waiting: a slot, ours from here on, or the error raised here."""
        slot = waiter.slot
        if slot is None:
            raise cast(BaseException, waiter.error)
        slot.waiter, slot.state = None, LOAN
        return slot

    def _give_up(self, waiter: Waiter, error: BaseException) -> None:
        """Leave the line; what was handed over meanwhile goes to the next."""
        with self._lock:
            self._queue.leave(waiter)
            self._stats.requests_num += not waiter.tries
            self._stats.requests_errors += 1
            self._stats.requests_timeouts += isinstance(error, PoolTimeout)
            self._stats.wait.add(self._clock() - waiter.since)
        if waiter.slot is not None:
            self._put_back(waiter.slot)
        elif self._to_close:
            self._staff()

    def _timeout(self, seconds: float) -> PoolTimeout:
        """Under the lock: the error of a waiter whose time is over."""
        error = PoolTimeout(explain.timeout(self._snapshot(), seconds))
        error.__cause__ = self._last_error if self._outage else None
        return error

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[CT]:
        """Borrow a connection for a block; its transaction ends with the block.

        Commits when the block ends well, rolls back when it raises, and gives back.
        """
        conn = self.getconn(timeout)
        try:
            with conn:
                yield conn
        finally:
            self.putconn(conn)

    # -- Giving back ----------------------------------------------------------------------

    def putconn(self, conn: CT) -> None:
        """Give a connection back.

        Rolls back what was left open, with a warning. Raises ValueError when the
        connection is not on loan from this pool (another pool's, or given back before).
        """
        slot: Slot | None = getattr(conn, "_slot", None)
        if slot is None or slot.state is not LOAN or slot not in self._slots:
            self._refuse(conn, slot)
            return
        if self._lock._is_owned():
            self._late.append((slot, conn))
            maintenance.poke()
            return
        over = False
        try:
            if (
                slot.pgconn.transaction_status != reset.IDLE
                or slot.pgconn.pipeline_status
                or (self._restores and reset.session(conn) != slot.birth)
                or self._tidies_always
            ) and not self._tidy(slot, conn):
                self._discard(slot, UNUSABLE, conn)
                return
            now = self._clock()
            with self._lock:
                if slot.state is LOAN:  # or another thread has been faster
                    # One line, so that no interrupt finds a loan that is half over.
                    over, slot.state = True, RETURNING
                    self._end_loan(slot, now)
                    self._settle(slot, conn, now)
                    self._moved_at = now
        except BaseException:
            self._put_back(slot, conn, over)
            raise
        if not over:
            self._refuse(conn, slot)
        if self._orphans or self._late or self._to_close or self._news:
            self.tick()

    def _end_loan(self, slot: Slot, now: float) -> None:
        """Under the lock: book a loan that ends, and cut the slot loose from its thread."""
        if slot.loans is None:  # an interrupt struck before it was lent
            return
        slot.loans.discard(slot)
        slot.loans = None
        slot.uses += 1
        if slot.uses == self.max_uses:
            slot.retire_at = AT_ONCE
        held = now - slot.since
        self._stats.hold.add(held)
        mean = self._mean_hold
        self._mean_hold = held if mean is None else mean + 0.2 * (held - mean)
        if slot.reported:
            slot.reported = False
            self._tell("a loan reported as a leak was given back after %.1f s", held)

    def _settle(self, slot: Slot, conn: Any, now: float) -> None:
        """Under the lock: bring a fit connection to rest: the first in line, idle, or closed."""
        conn._pool = None
        slot.conn = conn
        slot.note = None
        live = len(self._slots) - len(self._closing)
        wanted = self._queue and self._serving
        if now >= slot.retire_at or live > self._max_size or (self._winding_up and not wanted):
            self._retire(slot, self._reason_to_close(slot))
            return
        slot.idle_since = now
        vet_at = now + self._ping_after
        slot.vet_at = vet_at if vet_at < slot.retire_at else slot.retire_at
        while self._queue and self._queue.first().slot is not None:
            self._let_go(self._queue.first())  # served, but an interrupt kept it in line
        if wanted:
            self._hand_over(slot)
            return
        self._idle.append(slot)
        slot.state = IDLE
        if slot.retire_at < self._deadline or now + self.max_idle < self._deadline:
            self._schedule(min(now + self.max_idle, slot.retire_at))

    def _reason_to_close(self, slot: Slot) -> str:
        if self._winding_up:
            return POOL_CLOSED
        if slot.generation != self._generation:
            return DRAINED
        return EXPIRED if self._clock() >= slot.retire_at else SURPLUS

    def _hand_over(self, slot: Slot) -> None:
        """Under the lock: give a slot to the first in line."""
        waiter = self._queue.first()
        self._stats.wait.add(self._clock() - waiter.since)
        slot.waiter = waiter
        waiter.slot, slot.state = slot, HANDED
        self._let_go(waiter)

    def _let_go(self, waiter: Waiter) -> None:
        self._queue.leave(waiter)
        waiter.wake()

    def _tidy(self, slot: Slot, conn: Any) -> bool:
        """Make the session fit for the next borrower; False when it must be closed."""
        status = conn.pgconn.transaction_status
        if status != reset.IDLE or conn.pgconn.pipeline_status:
            self._warn_of(status, slot, conn)
            if not reset.leave_transaction(conn):
                return False
        try:
            if self._restores:
                reset.restore(conn, slot.birth)
            if callable(self._reset):
                self._reset(conn)
                if conn.pgconn.transaction_status != reset.IDLE:
                    raise OperationalError(
                        f"the reset callback {self._reset!r} left a transaction open"
                    )
            elif self._tidies_always:
                if not reset.discard_all(conn):
                    return False
                # Gone is also what the session was born with: a role, a time zone.
                if self._renew is not None:
                    self._renew(conn)
                self._set_up(conn)
        except Exception as error:
            logger.warning(
                "%s: cleaning a session failed, closing it: %s", self.name, one_line(error)
            )
            return False
        return True

    def _warn_of(self, status: int, slot: Slot, conn: Any) -> None:
        if status == TransactionStatus.UNKNOWN:
            if getattr(conn, "broken", False):
                with self._lock:
                    self._condemn()
            return
        what = "in a transaction" if status in (2, 3) else "in the middle of a statement"
        logger.warning(
            "%s: a connection was given back %s by %s%s; %s",
            self.name,
            what,
            explain.thread_name(_get_ident()),
            f" ({slot.note})" if slot.note else "",
            "rolling back" if status in (2, 3) else "closing it",
        )

    def _refuse(self, conn: Any, slot: Slot | None) -> None:
        """What cannot be given back: an error, unless the pool has given it up itself."""
        pool = slot.pool() if slot is not None else getattr(conn, "_pool", None)
        if pool is self and slot is not None and slot.state in (CLOSING, GONE):
            return
        if pool is self:
            why = "it was given back already"
        elif pool is not None:
            why = f"it comes from pool {pool.name!r}"
        else:
            why = "it doesn't come from any pool"
        raise ValueError(f"can't return connection to pool {self.name!r}, {why}: {conn}")

    def _put_back(self, slot: Slot, conn: Any = None, over: bool = False) -> None:
        """Bring a slot to rest after an interrupt struck while it was changing hands.

        Called by the one who had it, at any point of borrowing or giving back; `over` when
        the loan had ended, so that the slot may have found its next borrower already.
        """
        with self._lock:
            if slot.state is HANDED and slot.waiter is not None and over:
                self._let_go(slot.waiter)
            elif slot in self._idle:
                slot.state = IDLE
            elif slot.state is CLOSING:
                self._send_to_close(slot)
            elif slot.state is RETURNING or (slot.state in (LOAN, HANDED) and not over):
                now = self._clock()
                self._end_loan(slot, now)
                slot.waiter = None
                conn = conn or slot.conn or (slot.ref() if slot.ref is not None else None)
                self._settle_or_retire(slot, conn, now)
            # While it was in nobody's hands, others may have queued up behind it.
            self._serve_line()
        self._staff()

    def _serve_line(self) -> None:
        """Under the lock: hand idle connections to those in line."""
        self._mend_idle()
        while self._serving and self._queue and self._idle:
            slot = self._idle[-1]
            try:
                slot.state = RETURNING
                del self._idle[-1]
                self._settle(slot, slot.conn, self._clock())
            except BaseException:
                if slot.state is HANDED and slot.waiter is not None:
                    self._let_go(slot.waiter)
                elif slot.state is RETURNING:
                    if slot not in self._idle:
                        self._idle.append(slot)
                    slot.state = IDLE
                raise

    def _mend_idle(self) -> None:
        """Under the lock: drop what an interrupt kept from leaving the idle ones in time."""
        if any(slot.state is not IDLE for slot in self._idle):
            strays = [slot for slot in self._idle if slot.state is not IDLE]
            self._idle[:] = [slot for slot in self._idle if slot.state is IDLE]
            for slot in strays:
                if slot.state is CLOSING:
                    self._send_to_close(slot)

    def _settle_or_retire(self, slot: Slot, conn: Any, now: float) -> None:
        """Under the lock, where nothing may be sent: keep a session only if it is clean."""
        clean = (
            conn is not None
            and conn.pgconn.transaction_status == reset.IDLE
            and not conn.pgconn.pipeline_status
            and reset.session(conn) == slot.birth
            # It is in the slot as long as it was not lent, and again once it was tidied.
            and (slot.conn is conn or not self._tidies_always)
        )
        if clean:
            self._settle(slot, conn, now)
        else:
            slot.conn = conn
            self._retire(slot, RECLAIMED)

    # -- Closing connections --------------------------------------------------------------

    def _discard(self, slot: Slot, reason: str, conn: Any = None) -> None:
        """End a loan by closing the connection; its place is filled again when needed."""
        with self._lock:
            if slot.state is not LOAN:  # another thread has given it back meanwhile
                return
            if conn is not None:
                slot.conn = conn
                self._end_loan(slot, self._clock())
                self._stats.returns_bad += 1
            self._retire(slot, reason)
        self._staff()

    def _discard_dead(self, slot: Slot) -> None:
        """A connection was found dead: its generation goes with it."""
        with self._lock:
            self._retire(slot, LOST)
            self._stats.connections_lost += 1
            self._condemn()
        self._staff()

    def _condemn(self) -> None:
        """Under the lock: close the idle connections without trying them on a borrower.

        What killed one (a restart, a failover, a firewall) killed its contemporaries.
        Loans prove themselves by being used.
        """
        self._retire_all(CONDEMNED)

    def _retire_all(self, reason: str) -> None:
        """Under the lock: every idle connection on the way out."""
        while self._idle:
            self._retire(self._idle[-1], reason)
            del self._idle[-1]

    def _retire(self, slot: Slot, reason: str) -> None:
        """Under the lock: a slot that is nobody's any more on the way out.

        The order matters to an interrupt between the lines: a slot that is CLOSING but in
        no collection is put there by `_put_back` or `_mend_idle`.
        """
        if slot.state in (CLOSING, GONE):
            return
        slot.reason = reason
        slot.state = CLOSING
        self._send_to_close(slot)

    def _send_to_close(self, slot: Slot) -> None:
        """Under the lock: see that a CLOSING slot is in the collections, once."""
        if slot not in self._closing:
            if slot not in self._to_close:
                self._to_close.append(slot)
            self._closing.add(slot)

    def _close_slot(self, slot: Slot) -> None:
        """In a worker: close the connection, wait for the server, free the place."""
        try:
            await_end(slot.end, interrupt=say_goodbye(slot.conn, slot.pgconn))
        except Exception as error:
            logger.info("%s: closing a connection failed: %s", self.name, one_line(error))
        finally:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        with self._lock:
            self._slots.discard(slot)
            self._closing.discard(slot)
            self._stats.closed_for(slot.reason)
            slot.bury()
            self._judge()
            self._dismiss_if_done()

    def _dismiss_if_done(self) -> None:
        if self._closed and not self._slots:
            maintenance.dismiss(self._self)

    # -- Opening connections --------------------------------------------------------------

    def _staff(self) -> None:
        """Find workers for what is to be opened and closed. Call without the lock."""
        jobs: list[Slot] = []
        try:
            with self._lock:
                try:
                    while len(jobs) < self.max_connecting + CLOSERS and self._next_job(jobs):
                        pass
                except BaseException:
                    self._put_back_jobs(jobs)
                    raise
            for _ in range(len(jobs)):
                self._hire(jobs)
        except BaseException:
            with self._lock:
                self._put_back_jobs(jobs)
            raise

    def _hire(self, jobs: list[Slot]) -> None:
        try:
            if self._winding_up:
                raise RuntimeError  # a thread begun now would be cut off in the middle
            threading.Thread(
                target=self._work, args=(jobs,), name=f"{self.name}-worker", daemon=True
            ).start()
        except RuntimeError:
            # The interpreter is shutting down and gives out no more threads.
            self._work(jobs)

    def _work(self, jobs: list[Slot]) -> None:
        """What a worker does: one of these jobs, and then what else there is to do.

        It takes the job itself: whoever hired it may be interrupted without knowing
        whether the thread has begun.
        """
        mine: list[Slot] = []
        with self._lock:
            if jobs:
                mine.append(jobs.pop())
        while mine:
            slot = mine.pop()
            if slot.state is OPENING:
                self._open_slot(slot)
            else:
                self._close_slot(slot)
            with self._lock:
                self._next_job(mine)
            if mine:  # then there may be work for others too
                self._staff()

    def _next_job(self, jobs: list[Slot]) -> bool:
        """Under the lock: take up one slot to close or to open; say whether there was one."""
        busy_closing = len(self._closing) - len(self._to_close)
        if self._to_close and busy_closing < CLOSERS:
            slot = self._to_close[0]
            self._closing.add(slot)
            jobs.append(slot)
            self._to_close.popleft()
        elif self._should_open():
            slot = Slot(self._self, self._generation)
            slot.opened_at = self._clock()
            jobs.append(slot)
            self._slots.add(slot)
            self._opening.add(slot)
        else:
            return False
        return True

    def _put_back_jobs(self, jobs: list[Slot]) -> None:
        """Under the lock: jobs no worker has taken; maintenance finds others for them."""
        while jobs:
            slot = jobs.pop()
            if slot.state is OPENING:
                self._forget_attempt(slot)
            elif slot not in self._to_close:
                self._to_close.append(slot)
        self._schedule(self._clock())

    def _forget_attempt(self, slot: Slot) -> None:
        self._opening.discard(slot)
        self._slots.discard(slot)
        slot.bury()

    def _should_open(self) -> bool:
        """Under the lock: is one more attempt to connect wanted, allowed, and possible?"""
        if (
            self._closed
            or self._suspended
            or len(self._slots) >= self._max_size
            or len(self._opening) >= self.max_connecting
        ):
            return False
        outage = self._outage
        if outage is not None and self._promising():
            return False  # one probe at a time
        if outage is not None and self._clock() < outage.retry_at:
            self._schedule_retry(outage)
            return False
        if self._queue and self._growth_is_worth_it():
            self._grew_at = self._clock()
            return True
        return self._lacks_minimum()

    def _growth_is_worth_it(self) -> bool:
        now = self._clock()
        promising = self._promising()
        worth = worth_opening(
            waiting=len(self._queue),
            opening=promising,
            on_loan=self._on_loan(),
            stalled_for=now - max(self._line_since, self._moved_at),
            pressed_for=now - max(self._line_since, self._grew_at),
            mean_hold=self._mean_hold,
            mean_connect=self._mean_connect,
        )
        if not worth and len(self._queue) > promising:
            # Nobody may ever give back: look again when the first in line has been patient.
            self._schedule(now + patience(self._mean_connect))
        return worth

    def _promising(self) -> int:
        """Under the lock: how many attempts to connect may be hoped to end soon.

        One that takes much longer than usual may never end, so nobody is to wait for it.
        """
        if not self._opening:
            return 0
        usual = max(HANGING, 3 * self._mean_connect)
        hangs_at = [slot.opened_at + usual for slot in self._opening]
        now = self._clock()
        promising = [at for at in hangs_at if at > now]
        if promising and self._queue:
            self._schedule(min(promising))
        return len(promising)

    def _open_slot(self, slot: Slot) -> None:
        """In a worker: connect, and give the connection to whoever needs it by then."""
        began = self._clock()
        try:
            conn = self._connect()
            self._adopt(slot, conn)
        except BaseException as error:
            self._note_failure(slot, error)
            if not isinstance(error, Exception):
                raise
            return
        now = self._clock()
        with self._lock:
            took = now - began
            mean = self._mean_connect
            # Capped, so that one which hung does not make us wait for the next ones as long.
            self._mean_connect += (0.3 if mean else 1.0) * (min(took, SLOWEST_CONNECT) - mean)
            self._stats.connections_num += 1
            self._stats.connect.add(took)
            recovered, self._outage = self._outage is not None, None
            self._opening.discard(slot)
            slot.opened_at = now
            self._slots.add(slot)
            if slot.generation != self._generation:  # drained while it was being opened
                slot.retire_at = AT_ONCE
            self._settle(slot, conn, now)
            # Just opened, so believed without a ping for a moment.
            slot.vet_at = max(slot.vet_at, min(now + FRESH, slot.retire_at))
            self._tell_if_full()
        if recovered:  # until now one attempt at a time was made
            self._staff()

    def _connect(self) -> Any:
        """Return a new connection, configured."""
        conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs or {}
        kwargs = parameters.completed(conninfo, kwargs, self.command_timeout)
        conn = self.connection_class.connect(conninfo, **kwargs)
        conn._pool = None
        try:
            self._set_up(conn)
        except BaseException:
            end = end_of(conn.pgconn)
            await_end(end, interrupt=say_goodbye(conn, conn.pgconn))
            raise
        return conn

    def _set_up(self, conn: Any) -> None:
        """Have the user configure the session; ProgrammingError when that leaves a transaction."""
        if self._configure is None:
            return
        self._configure(conn)
        status = conn.pgconn.transaction_status
        if status != reset.IDLE:
            raise psycopg.ProgrammingError(
                f"the configure callback {self._configure!r} left the connection in status "
                f"{TransactionStatus(status).name}: closed"
            )

    def _adopt(self, slot: Slot, conn: Any) -> None:
        pgconn = conn.pgconn
        slot.pgconn = pgconn
        slot.end = end_of(pgconn)
        slot.backend_pid = pgconn.backend_pid
        slot.consume_input = pgconn.consume_input if self._check else _nothing
        slot.notifies = pgconn.notifies if self._check else _nothing
        slot.last_words = pgconn.notice_handler = LastWords(pgconn.notice_handler)
        slot.birth = reset.session(conn)
        slot.ref = weakref.ref(conn, slot.connection_died)
        slot.retire_at = self._clock() + self.max_lifetime * (1 - self.jitter * random.random())
        conn._slot = slot

    def _note_failure(self, slot: Slot, error: BaseException) -> None:
        now = self._clock()
        with self._lock:
            self._stats.connections_num += 1
            self._stats.connections_errors += 1
            self._forget_attempt(slot)
            if isinstance(error, Exception):
                self._last_error = error
                if self._outage is None:
                    self._outage = Outage(error, now)
                else:
                    self._outage.another(error, now, asked=bool(self._queue))
            self._judge(answered=True)
            self._dismiss_if_done()
        logger.warning("%s: connecting failed: %s", self.name, one_line(error))
        self._report_outage(now)

    def _judge(self, answered: bool = False) -> None:
        """Under the lock: fail those whose waiting cannot be rewarded; see that others' is.

        `answered`: the server has just refused an attempt, so those in line have their
        answer. Otherwise they get one from the next attempt, unless it is too early for it.
        """
        outage = self._outage
        if outage is None:
            return
        if self._is_hopeless() and (answered or self._clock() < outage.retry_at):
            for waiter in list(self._queue):
                waiter.error = again(outage.error)
                self._let_go(waiter)
        if self._clock() < outage.retry_at:
            self._schedule_retry(outage)

    def _schedule_retry(self, outage: Outage) -> None:
        """Under the lock: have the next attempt made when it is due, if anyone wants it."""
        if self._queue:
            self._schedule(outage.hurry())
        elif self._lacks_minimum():
            self._schedule(outage.retry_at)

    def _lacks_minimum(self) -> bool:
        if self._winding_up or self._closed or not self._keep_min:
            return False
        return len(self._slots) - len(self._closing) < self._min_size

    def _is_hopeless(self) -> bool:
        """Under the lock: the server refuses connections, and none can come back either."""
        return (
            self._outage is not None
            and not self._promising()
            and self._outage.hopeless(self._on_loan())
        )

    def _report_outage(self, now: float) -> None:
        outage = self._outage
        if outage is None or outage.reported or now - outage.since < self.reconnect_timeout:
            return
        outage.reported = True
        logger.warning("%s: no connection for %.0f s", self.name, now - outage.since)
        if self._reconnect_failed is not None:
            try:
                self._reconnect_failed(self)
            except Exception:
                logger.exception("%s: the reconnect_failed callback failed", self.name)

    # -- Owners that die ------------------------------------------------------------------

    def orphaned(self, slot: Slot, loans: Loans | None) -> None:
        """Note that a loan's connection (`loans` None) or thread died. For finalizers.

        A finalizer can run at any instruction, also inside the lock, so this takes none
        and starts no thread: it leaves a note, and has the maintenance thread read it.
        """
        self._orphans.append((slot, loans))
        maintenance.poke()

    @property
    def has_orphans(self) -> bool:
        return bool(self._orphans or self._late)

    def _bury_orphans(self) -> None:
        """Under the lock: take back what dead borrowers left, and what came back too early."""
        while self._late:
            slot, conn = self._late.popleft()
            if slot.state is LOAN and slot in self._slots:
                slot.state = RETURNING
                self._end_loan(slot, self._clock())
                self._settle_or_retire(slot, conn, self._clock())
        while self._orphans:
            slot, loans = self._orphans.popleft()
            if slot.state is not LOAN or slot not in self._slots or slot.conn is not None:
                continue
            conn = slot.ref() if slot.ref is not None else None
            if loans is None and conn is not None:
                continue
            if loans is not None and (slot.loans is not loans or _in_use(conn)):
                continue  # given back meanwhile, or another thread works with it
            self._stats.loans_reclaimed += 1
            self._tell(
                "a connection was never given back, closing it; borrowed %.1f s ago%s%s",
                self._clock() - slot.since,
                slot.site(),
                slot.purpose(),
            )
            self._end_loan(slot, self._clock())
            slot.conn = conn
            self._retire(slot, RECLAIMED)

    # -- Maintenance ----------------------------------------------------------------------

    def tick(self) -> None:
        """Do what time brings: retire, shrink, retry, report. Called at the deadline."""
        now = self._clock()
        with self._lock:
            self._deadline = NEVER
            self._mend_idle()
            self._bury_orphans()
            self._retire_idle(now)
            self._report_leaks(now)
            self._judge()
            self._schedule(self._next_deadline())
        self._staff()
        self._publish()

    def _retire_idle(self, now: float) -> None:
        """Under the lock: close what is too old, too many, or found dead at no cost."""
        live = len(self._slots) - len(self._closing)
        for slot in list(self._idle):  # longest idle first
            if now >= slot.retire_at:
                reason = EXPIRED
            elif live > self._min_size and now - slot.idle_since >= self.max_idle:
                reason = SURPLUS
            elif not is_alive(slot):
                reason = LOST
                self._stats.connections_lost += 1
            else:
                continue
            live -= 1
            self._retire(slot, reason)
            self._idle.remove(slot)

    def _trace(self, slot: Slot) -> None:
        """Note where a loan was taken, and have it looked at when it is due."""
        frame = explain.innermost_of_the_user(_get_frame(1))
        if frame is not None:
            slot.code, slot.line = frame.f_code, frame.f_lineno
        with self._lock:
            self._schedule(slot.since + self.leak_after)

    def _report_leaks(self, now: float) -> None:
        if not self.leak_after:
            return
        for slot in self._slots:
            if slot.loans is not None and not slot.reported and now - slot.since >= self.leak_after:
                slot.reported = True
                self._tell(
                    "on loan for %.1f s to %s%s, borrowed%s, now at %s",
                    now - slot.since,
                    explain.thread_name(slot.thread),
                    slot.purpose(),
                    slot.site(),
                    explain.where(slot.thread),
                )

    def _next_deadline(self) -> float:
        """Under the lock: the next moment at which `tick` has something to do."""
        moments = [slot.retire_at for slot in self._idle]
        if len(self._slots) - len(self._closing) > self._min_size:
            moments += [slot.idle_since + self.max_idle for slot in self._idle]
        if self.leak_after:
            moments += [
                slot.since + self.leak_after
                for slot in self._slots
                if slot.loans is not None and not slot.reported
            ]
        return min(moments, default=NEVER)

    def _tell(self, text: str, *args: object) -> None:
        """Under the lock: log a warning, once the lock is free.

        A handler may do what it likes, and one that writes to the database borrows.
        """
        self._news.append((text, args))

    def _publish(self) -> None:
        while self._news:
            with suppress(IndexError):  # another thread took the last
                text, args = self._news.popleft()
                logger.warning("%s: " + text, self.name, *args)

    def _schedule(self, at: float) -> None:
        """Under the lock: have `tick` called at that moment, or earlier."""
        if at < self._deadline:
            maintenance.schedule(self._self, at)
            self._deadline = at

    # -- The pool as a whole --------------------------------------------------------------

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
        self._keep_min = True
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
        raise error from self._last_error

    def _tell_if_full(self) -> None:
        if (
            self._full
            and len(self._slots) - len(self._opening) - len(self._closing) >= self._min_size
        ):
            self._end_waits()

    def _end_waits(self) -> None:
        for event in self._full:
            event.set()
        self._full.clear()

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: waiters get PoolClosed, idle connections are closed.

        Loans finish in peace and are closed when given back. Waits at most `timeout`
        seconds for the closing of what was idle. Closing twice does nothing.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = self._winding_up = True
            self._serving = self._suspended = False
            for waiter in list(self._queue):
                waiter.error = PoolClosed(f"pool {self.name!r} was closed while waiting")
                self._let_go(waiter)
            self._end_waits()
            self._dismiss_if_done()
        self._close_idle(timeout)

    def _close_idle(self, timeout: float) -> None:
        """Close what is idle, here and now: say goodbye to all, then wait for all."""
        with self._lock:
            self._retire_all(POOL_CLOSED)
            slots = list(self._to_close)
            self._to_close.clear()
        deadline = self._clock() + timeout
        for slot in slots:
            say_goodbye(slot.conn, slot.pgconn)
        for slot in slots:
            await_end(slot.end, deadline - self._clock())
            self._free(slot)

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
                say_goodbye(conn, slot.pgconn)
            finally:
                conn.lock.release()

    def drain(self) -> None:
        """Replace every connection: idle ones now, loans when they are given back."""
        with self._lock:
            self._check_open()
            self._generation += 1
            for slot in self._slots:
                slot.retire_at = AT_ONCE
            self._retire_all(DRAINED)
        self._staff()

    def check(self) -> None:
        """Try every idle connection with a round trip; replace those that fail."""
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
            if not ping(slot.pgconn):
                self._discard_dead(slot)
                return
            with self._lock:
                over, slot.state = True, RETURNING
                self._settle(slot, slot.conn, self._clock())
                if slot.state is IDLE:  # or the surplus of a pool often checked would never age
                    slot.idle_since = idle_since
        except BaseException:
            if taken:
                self._put_back(slot, None, over)
            raise

    @staticmethod
    def check_connection(conn: CT) -> None:
        """A `check` callback: one round trip. Raises OperationalError when that fails."""
        if not ping(conn.pgconn):
            raise OperationalError("the connection did not answer")

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds while running; what is too much closes as it becomes idle."""
        sizes = checked_sizes(min_size, max_size)
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
        with self._lock:
            self._check_open()
            self._suspended, self._serving = True, False

    def resume(self) -> None:
        """End `suspend`: serve those in line, in order."""
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

    def _check_open(self) -> None:
        if self._closed:
            state = "is closed" if self._opened else "is not open yet"
            raise PoolClosed(f"pool {self.name!r} {state}")

    def abandon(self, grave: Any) -> None:
        """In a forked child: forget the parent's connections without touching its sockets."""
        slots, was_open = list(self._slots), not self._closed
        self._start_empty()
        self._closed, self._serving = not was_open, was_open
        for slot in slots:
            slot.bury()
            if slot.pgconn is not None:
                bury(slot.pgconn, grave)

    # -- Numbers --------------------------------------------------------------------------

    def _on_loan(self) -> int:
        return len(self._slots) - len(self._idle) - len(self._opening) - len(self._closing)

    def get_stats(self) -> dict[str, int]:
        """Counters since the pool was made, and sizes now; psycopg_pool's keys and ours."""
        with self._lock:
            return self._stats.as_dict() | self._measures()

    def pop_stats(self) -> dict[str, int]:
        """As `get_stats`, and start counting anew."""
        with self._lock:
            stats, self._stats = self._stats, Stats()
            return stats.as_dict() | self._measures()

    def _measures(self) -> dict[str, int]:
        return {
            "pool_min": self._min_size,
            "pool_max": self._max_size,
            "pool_size": len(self._slots),
            "pool_available": len(self._idle),
            "requests_waiting": len(self._queue),
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything there is to see, at one moment; opens nothing. Times are seconds."""
        with self._lock:
            seen = self._snapshot()
            seen["histograms"] = self._stats.histograms()
            seen["closed_for"] = dict(self._stats.closed)
        return seen

    def _snapshot(self) -> dict[str, Any]:
        now = self._clock()
        return {
            "name": self.name,
            "min_size": self._min_size,
            "max_size": self._max_size,
            "size": len(self._slots),
            "idle": len(self._idle),
            "in_use": self._on_loan(),
            "opening": len(self._opening),
            "closing": len(self._closing),
            "waiting": len(self._queue),
            "longest_wait": now - self._queue.first().since if self._queue else 0.0,
            "closed": self._closed,
            "suspended": self._suspended,
            "last_error": one_line(self._outage.error) if self._outage is not None else None,
            "stats": self._stats.as_dict(),
            "loans": [_loan(slot, now) for slot in self._slots if _is_somebodys(slot)],
        }


def _is_somebodys(slot: Slot) -> bool:
    """Whether the slot is on loan, and not just being looked at."""
    return slot.state in ON_LOAN and (slot.loans is not None or slot.waiter is not None)


def _loan(slot: Slot, now: float) -> dict[str, Any]:
    """One loan as a snapshot shows it; a slot just handed over is its waiter's already."""
    lent = slot.loans is not None
    thread = slot.thread if lent or slot.waiter is None else slot.waiter.thread
    return {
        "held": max(0.0, now - (slot.since if lent else slot.idle_since)),
        "thread": explain.thread_name(thread),
        "thread_id": thread,
        "note": slot.note,
        "backend_pid": slot.backend_pid,
        "transaction": TransactionStatus(slot.pgconn.transaction_status).name,
    }


def _wake_maintenance(_: object) -> None:
    """A pool was dropped: perhaps the thread is not needed any more. For the interpreter."""
    maintenance.poke()


def _in_use(conn: Any) -> bool:
    """Whether a thread is in the middle of a statement on this connection."""
    lock = getattr(conn, "lock", None)
    return lock is not None and bool(lock.locked())
