"""Opening connections for those who need them, and closing what is not to be kept."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from django_connpool.process import uwsgi
from django_connpool.process.background import AT_ONCE, maintenance
from django_connpool.redaction import named, one_line, public
from django_connpool.session import cleaning, foreign, parameters, rest, watch
from django_connpool.session.closing import await_end, end_of, say_goodbye
from django_connpool.session.liveness import LastWords
from django_connpool.session.objects import Birth, noticing
from django_connpool.session.roles import Role

from .growth import patience, worth_opening
from .line import Line
from .outage import FIRST_RETRY, UNFIT, Outage, again
from .slot import CLOSING, ON_LOAN, OPENING, Slot

logger = logging.getLogger("django_connpool.pool")

HANGING = 1.0  # seconds after which an attempt to connect is not counted on, at the least
SLOWEST_CONNECT = 5.0  # seconds a connect is believed to take usually, at the most
FRESH = 1.0  # seconds for which a connection just opened or given back needs no ping
CLOSERS = 4  # workers that close connections at the same time


def _nothing() -> None:
    """What a pool that does not check reads from its sockets."""


class Supply(Line):
    """Workers: threads that connect and close, and live as long as there is such work."""

    def _staff(self) -> None:
        """Find workers for what is to be opened and closed. Call without the lock."""
        jobs: list[Slot] = []
        try:
            with self._lock:
                try:
                    while len(jobs) < self.max_connecting + CLOSERS and self._next_job(jobs):
                        pass
                except BaseException:
                    # Before the lock is free: a job half taken up is still there for others too.
                    self._dropped.append(jobs)
                    self._put_back_jobs()
                    raise
            for _ in range(len(jobs)):
                self._hire(jobs)
        except BaseException:
            self._dropped.append(jobs)  # first, so that no second interrupt loses them
            self._pick_up()
            raise

    def _hire(self, jobs: list[Slot]) -> None:
        self._in_a_thread(partial(self._work, jobs), "worker")

    def _in_a_thread(self, work: Callable[[], None], name: str) -> None:
        """Have it done in a thread of its own; here, where there are none to be had."""
        try:
            if self._winding_up or uwsgi.is_loading():
                raise RuntimeError  # a thread begun now would be cut off in the middle
            threading.Thread(target=work, name=f"{self.name}-{name}", daemon=True).start()
        except RuntimeError:
            work()

    def _work(self, jobs: list[Slot]) -> None:
        """What a worker does: one of these jobs, and then what else there is to do.

        It takes the job itself: whoever hired it may be interrupted without knowing
        whether the thread has begun. Interrupted itself (where there are no more threads to
        be had, whoever gives back does the work), it leaves the job to others.
        """
        mine: list[Slot] = []
        try:
            with self._lock:
                if jobs:
                    mine.append(jobs[-1])
                    del jobs[-1]
            while mine:
                slot = mine[0]
                if slot.state is OPENING:
                    self._open_slot(slot)
                else:
                    self._close_slot(slot)
                with self._lock:
                    mine.clear()
                    self._next_job(mine)
                if mine:  # then there may be work for others too
                    self._staff()
        except BaseException:
            self._dropped.append(mine)  # as in `_staff`
            self._pick_up()
            raise

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

    def _pick_up(self) -> None:
        """Have what was dropped done by others. Call without the lock."""
        maintenance.poke()  # which does it, should this be interrupted too
        with self._lock:
            self._put_back_jobs()

    def _put_back_jobs(self) -> None:
        """Under the lock: jobs no worker has taken; maintenance finds others for them."""
        while self._dropped:
            jobs = self._dropped[0]
            while jobs:
                self._put_back_job(jobs[-1])
                del jobs[-1]
            del self._dropped[0]

    def _put_back_job(self, slot: Slot) -> None:
        if slot.state is OPENING:
            self._forget_attempt(slot)
        elif slot.state is not CLOSING or slot in self._to_close:
            return
        else:
            self._to_close.append(slot)
        self._schedule(self._clock())

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
        # In a process that loads, nobody else is there to give back, or to look again.
        alone = uwsgi.is_loading() and len(self._queue) > len(self._opening)
        if self._queue and (alone or self._growth_is_worth_it()):
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
            mean_hold=self._stats.mean_hold(),
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
            self._stats.connect.note(took)
            # What a check has refused is over when one passes it.
            recovered = self._outage is not None and self._outage.kind != UNFIT
            if recovered:
                self._outage = None
            self._opening.discard(slot)
            slot.opened_at = now
            self._slots.add(slot)
            if slot.generation != self._generation:  # drained while it was being opened
                slot.retire_at = AT_ONCE
            watch.judge_by(conn, self._dirt_of)  # which may have learned something meanwhile
            self._settle(slot, conn, now)
            # Just opened, so believed without a ping for a moment.
            if slot.cleaning is None and not callable(self._check):
                slot.vet_at = max(slot.vet_at, min(now + FRESH, slot.retire_at))
            self._tell_if_full()
        if recovered:  # until now one attempt at a time was made
            self._staff()

    def _connect(self) -> Any:
        """Return a new connection, configured."""
        conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs or {}
        kwargs = parameters.completed(
            conninfo, kwargs, self.command_timeout, parameters.CONNECT_TIMEOUT
        )
        conn = noticing(self.connection_class).connect(conninfo, **kwargs)
        conn.__dict__["_pool"] = None
        try:
            watch.set_watch(conn, self._dirt_of)
            with watch.recording(conn):
                self._set_up(conn)
            watch.set_watch(conn, self._dirt_of)  # the user may have chosen other cursors
            watch.judge_by(conn, self._dirt_of)  # not by one that was made to open it
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
        if status != rest.IDLE:
            raise psycopg.ProgrammingError(
                f"the configure callback {named(self._configure)} left the connection in status "
                f"{TransactionStatus(status).name}: closed"
            )

    def _adopt(self, slot: Slot, conn: Any) -> None:
        pgconn = conn.pgconn
        slot.pgconn = pgconn
        slot.end = end_of(pgconn)
        slot.backend_pid = pgconn.backend_pid
        slot.consume_input = pgconn.consume_input if self._check else _nothing
        slot.get_result = pgconn.get_result if self._check else _nothing
        slot.last_words = pgconn.notice_handler = LastWords(pgconn.notice_handler)
        # Not to a proxy of an agent's: cursors know only what is behind it.
        slot.ref = weakref.ref(foreign.behind(conn), slot.connection_died)
        slot.retire_at = self._clock() + self.max_lifetime * (1 - self.jitter * random.random())
        slot.watch = watch.of(conn)
        conn._slot = slot
        slot.birth = Birth(conn, slot.watch.listens)
        slot.role = Role(pgconn)
        if self._restores and isinstance(conn, psycopg.Connection):
            self._trust.opened(slot, self._clock())
            if self._trust.lost and not self._queue:
                self._ask(slot, conn)

    def _ask(self, slot: Slot, conn: Any) -> None:
        """Ask the server, in a new connection, for the functions that change a session."""
        now = self._clock()
        question = self._trust.question(slot, now)
        if question:
            slot.cleaning = cleaning.begin(conn, 0, [], question)
            if slot.cleaning is None:
                raise psycopg.OperationalError("the connection was lost as it was opened")
            self._trust.asked(slot, slot.cleaning, now)

    def _read_answers(self) -> None:
        """Have a thread read what servers have told of their functions. Call without the lock."""
        if self._trust.answers and not self._winding_up:
            self._in_a_thread(self._learn, "functions")

    def _learn(self) -> None:
        trust = self._trust
        while trust.answers:
            question = trust.answers[0]
            try:
                grown = trust.read(question)
                with self._lock:
                    lent = []
                    for slot in self._slots:
                        if slot.state is not OPENING:
                            slot.watch.use(self._dirt_of)
                            lent += [slot] if grown and slot.state in ON_LOAN else []
                    trust.learned(question, lent)
            except Exception as error:
                if trust.refused(question):
                    logger.warning(
                        "%s: every session is cleaned, for the server does not tell which of its "
                        "functions change one: %s",
                        self.name,
                        one_line(error),
                    )
            finally:
                with suppress(ValueError):
                    trust.answers.remove(question)

    def _tell_if_full(self) -> None:
        if (
            self._full
            and len(self._slots) - len(self._opening) - len(self._closing) >= self._min_size
        ):
            self._end_waits()

    def _note_failure(self, slot: Slot, error: BaseException) -> None:
        now = self._clock()
        with self._lock:
            self._stats.connections_num += 1
            self._stats.connections_errors += 1
            self._forget_attempt(slot)
            if isinstance(error, Exception):
                self._note_refusal(error, now, began=slot.opened_at)
            else:  # not the server's fault; but what ends its thread may do so again
                self._schedule(now + FIRST_RETRY)
            self._judge(answered=True)
            self._dismiss_if_done()
        logger.warning("%s: connecting failed: %s", self.name, one_line(error))
        self._report_outage(now)

    def _note_refusal(
        self, error: BaseException, now: float, kind: str = "", began: float | None = None
    ) -> None:
        """Under the lock: there is no connection, so the next attempt has to wait a little."""
        self._last_error = error
        if self._outage is None:
            # In a process of uWSGI's that loads nobody tries on while somebody waits.
            young_for = 0.0 if uwsgi.is_loading() else self.outage_patience
            self._outage = Outage(error, now, kind, young_for)
        else:
            self._outage.another(error, now, bool(self._queue), kind, began)

    def _forget_attempt(self, slot: Slot) -> None:
        self._opening.discard(slot)
        self._slots.discard(slot)
        slot.bury()

    def _judge(self, answered: bool = False) -> None:
        """Under the lock: fail those whose waiting cannot be rewarded; see that others' is.

        `answered`: the server has just refused an attempt, so those in line have their
        answer. Otherwise they get one from the next attempt, unless it is too early for it.
        """
        outage = self._outage
        if outage is None:
            return
        now = self._clock()
        # An attempt that hangs is no answer to wait for either.
        if self._is_hopeless() and (answered or now < outage.retry_at or self._opening):
            for waiter in list(self._queue):
                waiter.error = again(outage.error)
                self._queue.let_go(waiter)
        if self._queue and outage.is_young(now):
            self._schedule(outage.since + outage.patience)
        if now < outage.retry_at:
            self._schedule_retry(outage)

    def _schedule_retry(self, outage: Outage) -> None:
        """Under the lock: have the next attempt made when it is due, if anyone wants it."""
        if self._queue:
            self._schedule(outage.hurry(self._clock()))
        elif self._lacks_minimum():
            self._schedule(outage.retry_at)

    def _is_hopeless(self) -> bool:
        """Under the lock: the server refuses connections, and none can come back either."""
        return (
            self._outage is not None
            and not self._suspended  # those in line wait for `resume`, not for the server
            and not self._promising()
            and self._outage.hopeless(self._on_loan(), len(self._closing), self._clock())
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
            except Exception as error:
                text = "%s: the reconnect_failed callback failed"
                logger.error(text, self.name, exc_info=public(error))

    def _close_slot(self, slot: Slot) -> None:
        """In a worker: close the connection, wait for the server, free the place."""
        try:
            await_end(slot.end, interrupt=say_goodbye(slot.conn, slot.pgconn))
        except Exception as error:
            logger.info("%s: closing a connection failed: %s", self.name, one_line(error))
        # Not after an interrupt: the connection may still be open, and is closed by another.
        self._free(slot)

    def _free(self, slot: Slot) -> None:
        with self._lock:
            self._slots.discard(slot)
            self._closing.discard(slot)
            self._stats.closed_for(slot.reason)
            slot.bury()
            if self._outage is not None:
                self._outage.place_is_free(self._clock())
            self._judge()
            self._dismiss_if_done()

    def _dismiss_if_done(self) -> None:
        if self._closed and not self._slots:
            maintenance.dismiss(self._self)

    def _end_waits(self) -> None:
        for event in self._full:
            event.set()
        self._full.clear()
