"""Borrowing and giving back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, cast

from psycopg import OperationalError
from psycopg.pq import TransactionStatus

from . import explain, reset
from .abc import CT
from .errors import PoolTimeout, TooManyRequests
from .maintenance import maintenance
from .outage import again, one_line
from .owners import this_thread
from .probe import PING_TIMEOUT, is_alive, ping
from .queue import Waiter
from .slot import (
    CLOSING,
    EXPIRED,
    GONE,
    HANDED,
    IDLE,
    LOAN,
    LOST,
    RETURNING,
    UNUSABLE,
    Slot,
)
from .supply import FRESH
from .upkeep import Upkeep

logger = logging.getLogger("django_connpool.pool")

HASTIEST_PING = 0.1  # seconds a ping may take, however little time its borrower has

_get_ident = threading.get_ident


class Lending(Upkeep, Generic[CT]):
    """From the moment somebody asks for a connection to the moment it is given back."""

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
            # Whoever stands in line looks again, under the lock. And a signal handler must not
            # take a slot that the code it interrupted has in hand.
            if not self._idle or self._lock._is_owned():
                return self._getconn_slowly(timeout, None)
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
                f"pool {self.name!r}: {len(self._queue)} waiting already, and no more than "
                f"max_waiting ({self.max_waiting}) may; {self._on_loan()} of at most "
                f"{self._max_size} connections are on loan"
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
                or (self._restores and slot.session(conn) != slot.birth)
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
            self._look_around()
            self._publish()

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
        self._staff()

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
