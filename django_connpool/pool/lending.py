"""Borrowing and giving back."""

from __future__ import annotations

import logging
import threading
from typing import Any, Generic, cast

from psycopg import OperationalError, ProgrammingError
from psycopg.pq import ConnStatus, TransactionStatus

from django_connpool.process.background import maintenance
from django_connpool.redaction import named, one_line, public
from django_connpool.session import cleaning, rest
from django_connpool.session.liveness import PING_TIMEOUT, is_alive, ping
from django_connpool.session.objects import reported
from django_connpool.session.roles import has_turned
from django_connpool.session.statements import ANYTHING, CHANNELS

from . import explain
from .abc import CT
from .errors import PoolTimeout, TooManyRequests
from .loan import Loan
from .outage import UNFIT, again
from .owners import this_thread
from .queue import Waiter, expect_free
from .slot import (
    CLOSING,
    EXPIRED,
    GONE,
    HANDED,
    IDLE,
    LOAN,
    LOST,
    RETURNING,
    UNCLEAN,
    UNUSABLE,
    Loans,
    Slot,
)
from .supply import FRESH
from .upkeep import Upkeep

logger = logging.getLogger("django_connpool.pool")

HASTIEST_ANSWER = 0.1  # seconds a server may take, however little time its borrower has
LOOKED_AT = 8  # idle connections, for one that is not being cleaned


class Lending(Upkeep, Generic[CT]):
    """From the moment somebody asks for a connection to the moment it is given back.

    Where every loan comes by, the lock is taken by hand, inside the block whose end releases
    it: `with` costs 0.3 µs more. Between `acquire` and the rest of the block, or its end and
    `release`, no interrupt strikes: the interpreter looks for signals when a call has returned.
    One that keeps `acquire` from succeeding goes on, once `release` has found the lock free.
    (The `try` before `release` is there for Python 3.10 too, which looks for signals at the
    beginning of a `finally` clause, but for one that begins with it.)
    """

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
            lock = self._lock
            try:  # see the class
                lock.acquire()
                if self._serving and self._idle and (last := self._idle[-1]).state is IDLE:
                    if last.cleaning is not None:
                        last = self._prefer_ready()
                    # The order matters to an interrupt between the lines: from the first
                    # on the slot is ours to put back, and nobody else takes it.
                    slot, last.state = last, LOAN
                    del self._idle[-1]
                    self._stats.requests_num += 1
            finally:
                try:
                    lock.release()
                except RuntimeError as error:
                    expect_free(error)
            if slot is not None:
                now = self._clock()
                if (now < slot.vet_at and is_alive(slot)) or self._is_fit(slot, now, timeout):
                    return self._lend(slot, now, this_thread.loans)
            return self._getconn_slowly(timeout, None if slot is None else now)
        except BaseException:
            if slot is not None:
                # Nothing is called before the slot is noted, so no second interrupt loses it.
                if slot.state is LOAN:
                    slot.state = RETURNING
                self._strays.append(slot)
                self._put_back(slot)
            raise

    def _lend(self, slot: Slot, now: float, loans: Loans) -> CT:
        """Make the slot's connection its borrower's. The slot forgets it: see `Slot`."""
        slot.since = now
        slot.loans = loans
        loans.add(slot)
        if self._describe is not None:
            slot.note = self._describe()
        if self.leak_after or self.command_timeout:
            self._attend_loan(slot)
        conn = slot.conn
        conn.__dict__["_pool"] = self
        slot.conn = None
        return conn  # type: ignore[no-any-return]

    def outlive_thread(self, conn: CT) -> None:
        """Let a loan go on when the thread that borrowed it ends.

        For a connection that several threads share: from then on it comes back by
        `putconn`, or when nobody can reach it any more.
        """
        slot: Slot | None = getattr(conn, "_slot", None)
        with self._lock:
            if slot is not None and slot in self._slots and slot.state is LOAN and slot.loans:
                slot.loans.discard(slot)
                slot.loans = Loans(slot.loans.thread, [slot])

    def _is_fit(self, slot: Slot, now: float, timeout: float | None) -> bool:
        """Whether an idle connection may be served; when not, it is on its way out."""
        cleaned = slot.cleaning is not None
        if cleaned and not self._came_clean(slot, timeout):
            return False
        if now >= slot.retire_at:
            self._discard(slot, EXPIRED)
            return False
        if not is_alive(slot):
            self._discard_dead(slot)
            return False
        if cleaned:  # which was as good as a ping
            return not callable(self._check) or self._passes_check(slot, timeout)
        return now < slot.vet_at or self._passes_check(slot, timeout)

    def _came_clean(self, slot: Slot, timeout: float | None) -> bool:
        """Take the outcome of a clean-up, which is a proof of life; False when it is out."""
        assert slot.cleaning is not None
        patience = self._patience(cleaning.CLEAN_TIMEOUT, timeout)
        outcome = slot.cleaning.outcome(patience)
        if outcome:
            last_use = slot.cleaning.is_last_use
            if self._trust.lost:
                self._trust.answered(slot.cleaning)
            slot.came_clean()
            self._read_answers()
            if last_use:
                self._discard(slot, UNCLEAN)
                return False
            slot.vet_at = min(self._clock() + FRESH, slot.retire_at)
        elif slot.pgconn.status == ConnStatus.BAD:
            self._discard_dead(slot)
        else:
            logger.warning(
                "%s: a session could not be cleaned, closing it%s",
                self.name,
                "" if outcome is False else f": it took more than {patience:.1f} s",
            )
            self._discard(slot, UNCLEAN)
        return bool(outcome)

    def _prefer_ready(self) -> Slot:
        """Under the lock: have one that is clean already be the last of the idle ones."""
        if len(self._idle) == 1:
            return self._idle[0]
        for place in range(len(self._idle) - 1, max(-1, len(self._idle) - 1 - LOOKED_AT), -1):
            slot = self._idle[place]
            if slot.state is IDLE and (
                slot.cleaning is None or slot.cleaning.outcome() is not None
            ):
                self._idle[place], self._idle[-1] = self._idle[-1], slot
                break
        return self._idle[-1]

    def _passes_check(self, slot: Slot, timeout: float | None) -> bool:
        if not callable(self._check):
            fits = ping(slot.pgconn, self._patience(PING_TIMEOUT, timeout)) and not has_turned(slot)
            if not fits:
                self._discard_dead(slot)
            return fits
        asked_at = self._clock()
        try:
            self._check(slot.conn)
            if not rest.leave_transaction(slot.conn):
                raise OperationalError("the check has left the connection unusable")
        except Exception as error:
            self._discard_unfit(slot, error, asked_at)
            return False
        self._note_passed_check()
        return True

    def _patience(self, longest: float, timeout: float | None) -> float:
        """How many seconds a server may take to answer a borrower with so much time left."""
        seconds = self.timeout if timeout is None else timeout
        return min(longest, max(HASTIEST_ANSWER, seconds))

    def _getconn_slowly(self, timeout: float | None, since: float | None) -> CT:
        """Borrow when there was nothing fit at hand: try the next, or wait in line."""
        if self._lock._is_owned():
            raise OperationalError(
                f"pool {self.name!r}: a finalizer or signal handler that interrupted the pool "
                "itself cannot wait for a connection"
            )
        seconds = self.timeout if timeout is None else timeout
        now = self._clock()
        began = now if since is None else since
        note = self._describe() if self._describe is not None else None
        waiter = Waiter(began, since is not None, note)
        try:
            while True:
                lock = self._lock
                try:  # see the class
                    lock.acquire()
                    queued = self._stand_in_line(waiter, seconds)
                finally:
                    try:
                        lock.release()
                    except RuntimeError as error:
                        expect_free(error)
                if self._news:
                    self._publish()
                    now = self._clock()  # a log handler may have taken its time
                if queued:
                    self._expect_lock(waiter)
                    if len(self._slots) < self._max_size or self._to_close:
                        self._staff()
                    if not waiter.wait(began + seconds - now):
                        self._leave_line(waiter, seconds)
                slot = waiter.slot
                if slot is None:
                    raise cast(BaseException, waiter.error)
                slot.waiter, slot.state = None, LOAN  # from here on it is ours
                now = self._clock()
                # Given back a moment ago, it needs no ping. But it may have died unnoticed by
                # a borrower that did not use it.
                is_fresh = queued and slot.cleaning is None and now < slot.idle_since + FRESH
                if (is_fresh and not self._asks_each and is_alive(slot)) or self._is_fit(
                    slot, now, began + seconds - now
                ):
                    return self._lend(slot, now, this_thread.loans)
                waiter = waiter.again()
                now = self._clock()
        except BaseException as error:
            # As in `getconn`: noted first.
            if waiter.slot is not None and waiter.slot.state is LOAN:
                waiter.slot.state = RETURNING
            self._strays.append(waiter)
            self._give_up(waiter, error)
            raise

    def _stand_in_line(self, waiter: Waiter, seconds: float) -> bool:
        """Under the lock: serve the waiter at once (False), queue it (True), or refuse it."""
        if self._closed:
            self._check_open()
        if self._orphans or self._late or self._strays:
            self._bury_orphans()
        if self._idle:
            if self._idle[-1].state is not IDLE:
                self._mend_idle()
            if self._serving and self._idle:
                last = self._prefer_ready() if self._idle[-1].cleaning else self._idle[-1]
                waiter.slot, last.waiter, last.state = last, waiter, HANDED
                del self._idle[-1]
                self._stats.requests_num += not waiter.tries
                waiter.tries += 1
                return False
        outage = self._outage
        if outage is not None and self._is_hopeless():
            now = self._clock()
            if now < outage.hurry(now):
                raise again(outage.error)
        if seconds <= 0:
            raise self._timeout(seconds)
        if self.max_waiting and len(self._queue) >= self.max_waiting and not waiter.tries:
            raise TooManyRequests(
                f"pool {self.name!r}: {len(self._queue)} waiting already, and no more than "
                f"max_waiting ({self.max_waiting}) may; {self._on_loan()} of at most "
                f"{self._max_size} connections are on loan"
            )
        if not self._queue:
            self._line_since = self._clock()
            maintenance.attend(self._self)
        if waiter.tries:
            self._queue.rejoin(waiter)
        else:
            self._stats.requests_queued += 1
            self._stats.requests_num += 1
            waiter.tries = 1
            self._queue.append(waiter)
        return True

    def _leave_line(self, waiter: Waiter, seconds: float) -> None:
        """Give up waiting, unless served at the last moment. Raises PoolTimeout."""
        with self._lock:
            self._queue.leave(waiter)
            if waiter.slot is None and waiter.error is None:
                raise self._timeout(seconds)

    def _give_up(self, waiter: Waiter, error: BaseException) -> None:
        """Leave the line; what was handed over meanwhile goes to the next."""
        if waiter.slot is not None:
            maintenance.poke()  # as in `_put_back`
        with self._lock:
            self._mend_strays()  # it is one of them
            self._stats.requests_num += not waiter.tries
            self._stats.requests_errors += 1
            self._stats.requests_timeouts += isinstance(error, PoolTimeout)
            self._stats.wait.note(self._clock() - waiter.since)
            self._stats.count()
        if waiter.slot is not None or self._to_close:
            self._staff()

    def _timeout(self, seconds: float) -> PoolTimeout:
        """Under the lock: the error of a waiter whose time is over."""
        seen = self._snapshot()
        explain.locate(seen["loans"], explain.LISTED)
        error = PoolTimeout(explain.timeout(seen, seconds))
        if self._outage and self._last_error:
            error.__cause__ = public(self._last_error)
        return error

    def reborn(self, conn: CT) -> None:
        """What this connection, which is on loan, is like now belongs to it from its birth."""
        slot: Slot = conn._slot  # type: ignore[attr-defined]
        slot.birth = slot.birth.again(conn, slot.watch.listens)

    def connection(self, timeout: float | None = None) -> Loan[CT]:
        """Borrow a connection for a block; its transaction ends with the block.

        Commits when the block ends well, rolls back when it raises, and gives back.
        """
        return Loan(self, timeout)

    # -- Giving back ----------------------------------------------------------------------

    def putconn(self, conn: CT) -> None:
        """Give a connection back.

        Rolls back what was left open, with a warning. Raises ValueError when the
        connection is not on loan from this pool (another pool's, or given back before);
        in `strict` mode ProgrammingError, when it has been rolled back and is with the pool.
        """
        try:
            slot: Slot | None = conn._slot  # type: ignore[attr-defined]
        except AttributeError:
            slot = None
        if slot is None or slot.state is not LOAN or slot.pool is not self._self:
            self._refuse(conn, slot)
            return
        if self._lock._is_owned():
            self._late.append((slot, conn, slot.watch.loan))
            maintenance.poke()
            return
        over = False
        complaint = unfit = ""
        try:
            pgconn, watch = slot.pgconn, slot.watch
            conn.__dict__["_pool"] = None  # as it was when it was new
            in_the_middle = pgconn.transaction_status or pgconn.pipeline_status  # IDLE is 0
            if (
                in_the_middle
                or self._tidies_always
                or self._trust.lost
                or (
                    self._restores
                    and (
                        watch.dirt
                        or (slot.birth.touch.touched and slot.birth.differs(conn))
                        or (watch.called and reported(pgconn) != slot.birth.reported)
                    )
                )
            ):
                if in_the_middle:
                    complaint = self._complaint(slot, conn)
                unfit = self._tidy(slot, conn)
            if self._closed:
                conn.close()  # at once; that the server has let go is waited for by a worker
            if unfit:
                self._discard(slot, unfit, conn)
            else:
                now, lock = self._clock(), self._lock
                try:  # see the class
                    lock.acquire()
                    if slot.state is LOAN:  # or another thread has been faster
                        # One line, so that no interrupt finds a loan that is half over.
                        over, slot.state = True, RETURNING
                        self._moved_at = now
                        self._settle(slot, conn, now)
                finally:
                    try:
                        lock.release()
                    except RuntimeError as error:
                        expect_free(error)
        except BaseException:
            self._strays.append(slot)  # first, as in `getconn`
            self._put_back(slot, not over)
            raise
        if not over and not unfit:
            self._refuse(conn, slot)
        if self._orphans or self._late or self._to_close or self._news:
            self._look_around()
            self._publish()
        if complaint:
            raise ProgrammingError(f"pool {self.name!r}: {complaint}")

    def _tidy(self, slot: Slot, conn: Any) -> str:
        """Make the session fit for the next borrower; why not, when it must be closed."""
        if not rest.is_at_rest(conn) and not self._leave_transaction(slot, conn):
            return UNUSABLE
        try:
            if self._restores:
                # Notifications gather on the object of whoever listens, without touching it.
                if slot.birth.touch.touched or slot.watch.dirt & CHANNELS:
                    slot.birth.restore(conn)
                return self._clean(slot, conn)
            if callable(self._reset):
                self._reset(conn)
                if conn.pgconn.transaction_status != rest.IDLE:
                    raise OperationalError(
                        f"the reset callback {named(self._reset)} left a transaction open"
                    )
        except Exception as error:
            logger.warning(
                "%s: cleaning a session failed, closing it: %s", self.name, one_line(error)
            )
            return UNCLEAN
        return ""

    def _clean(self, slot: Slot, conn: Any) -> str:
        """Send what undoes the changes; why that is not possible, or nothing."""
        trust, watch = self._trust, slot.watch
        doubtful = trust.lost and trust.ends(slot)
        dirt = slot.dirt() | (ANYTHING if self._tidies_always or doubtful else 0)
        now = self._clock()
        question = trust.question(slot, now) if trust.lost else b""
        if dirt or question:
            if not doubtful:
                watch.decide()
            last_use = bool(question) and not cleaning.is_possible(dirt, watch.born)
            slot.cleaning = (
                cleaning.begin(conn, 0, [], question)
                if last_use
                else cleaning.begin(conn, dirt, watch.born, question)
            )
            if slot.cleaning is None:
                return UNCLEAN
            if question:
                slot.cleaning.is_last_use = last_use
                trust.asked(slot, slot.cleaning, now)
        return ""

    def _complaint(self, slot: Slot, conn: Any) -> str:
        """What is wrong with the way a connection is given back; logged, unless `strict`."""
        status = conn.pgconn.transaction_status
        if status == TransactionStatus.UNKNOWN:
            if getattr(conn, "broken", False):
                with self._lock:
                    self._condemn()
            return ""
        in_transaction = status in rest.IN_TRANSACTION
        last = slot.watch.text_of_last()
        text = (
            "a connection was given back "
            f"{'in a transaction' if in_transaction else 'in the middle of a statement'} by "
            f"{explain.thread_name(threading.get_ident())}{slot.purpose()}"
            f"{last and f', after: {last}'}; {'rolling back' if in_transaction else 'closing it'}"
        )
        if self._strict:
            return text
        logger.warning("%s: %s", self.name, text)
        return ""

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

    def _put_back(self, slot: Slot, on_loan: bool = False) -> None:
        """Bring a slot to rest after an interrupt struck while it was changing hands.

        Called by the one who had it and has noted it in `_strays`, at any point of borrowing
        or giving back; `on_loan` when it may still be the caller's loan, which ends here.
        """
        maintenance.poke()  # which does it, should this be interrupted too
        with self._lock:
            if on_loan and slot.state is LOAN:
                self._strays.append(slot)  # again: of a loan a note is thrown away
                slot.state = RETURNING
            self._mend_strays()
        self._staff()

    def _discard(self, slot: Slot, reason: str, conn: Any = None) -> None:
        """End a loan by closing the connection; its place is filled again when needed."""
        with self._lock:
            if slot.state is not LOAN:  # another thread has given it back meanwhile
                return
            self._stats.returns_bad += conn is not None  # else it was not lent yet
            self._settle(slot, slot.conn if conn is None else conn, self._clock(), reason)
        self._staff()

    def _discard_unfit(self, slot: Slot, error: Exception, asked_at: float) -> None:
        """The user's check refuses a connection; those that come after may be as bad.

        What dies of old age is replaced at once. But what is refused when it has just been
        opened counts as a failed attempt to connect, so that the next one waits a little.
        """
        logger.info("%s: a connection failed its check: %s", self.name, one_line(error))
        with self._lock:
            self._retire(slot, LOST)
            self._stats.connections_lost += 1
            if isinstance(error, OperationalError):
                self._condemn()
            if asked_at < slot.opened_at + FRESH:
                self._note_refusal(error, self._clock(), UNFIT)
            self._last_error = error
        self._staff()

    def _note_passed_check(self) -> None:
        """What the user's check had refused, if anything, is over."""
        outage = self._outage
        if outage is not None and outage.kind == UNFIT:
            with self._lock:
                if self._outage is outage:
                    self._outage = None
            self._staff()

    def _discard_dead(self, slot: Slot) -> None:
        """A connection was found dead: its generation goes with it."""
        with self._lock:
            self._retire(slot, LOST)
            self._stats.connections_lost += 1
            self._condemn()
        self._staff()
