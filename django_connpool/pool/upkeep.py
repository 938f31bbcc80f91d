"""What time brings, and what borrowers leave who die before they give back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django_connpool.process import ending, userline
from django_connpool.process.background import AT_ONCE, NEVER, maintenance
from django_connpool.session import rest
from django_connpool.session.cleaning import CLEAN_TIMEOUT
from django_connpool.session.liveness import is_alive
from django_connpool.session.roles import after_refused_write
from django_connpool.session.vanished import (
    ANSWER_TIMEOUT,
    GRACE,
    LOOK_AGAIN,
    answers,
    give_up,
    is_busy,
    silence,
)

from . import explain
from .errors import PoolClosed, PoolTimeout
from .locking import advice, is_locked
from .queue import Waiter
from .slot import (
    CLOSING,
    CONDEMNED,
    EXPIRED,
    HANDED,
    IDLE,
    LOAN,
    LOST,
    NOT_THE_THREADS,
    RECLAIMED,
    RETURNING,
    SURPLUS,
    UNCLEAN,
    Loans,
    Slot,
)
from .supply import Supply


class Upkeep(Supply):
    """The work of the maintenance thread, which calls `tick` at the pool's next deadline."""

    def orphaned(self, slot: Slot, loans: Loans | None) -> None:
        """Note that a loan's connection (`loans` None) or thread died. For finalizers.

        A finalizer can run at any instruction, also inside the lock, so this takes none
        and starts no thread: it leaves a note, and has the maintenance thread read it.
        """
        self._orphans.append((slot, loans))
        maintenance.poke()

    @property
    def has_orphans(self) -> bool:
        return bool(self._orphans or self._late or self._strays or self._dropped or self._put_off)

    def _is_put_off(self, action: Callable[[], None]) -> bool:
        """Leave it to the maintenance thread, if the caller interrupted the pool itself.

        What a signal handler did inside the lock would happen under the hands of the code it
        interrupted, which has looked already at what there is.
        """
        if not self._lock._is_owned():
            return False
        self._put_off.append(action)
        maintenance.poke()
        return True

    def _catch_up(self) -> None:
        while self._put_off:
            action = self._put_off.popleft()
            with suppress(PoolClosed):  # there is nothing left to do it to
                action()

    def _bury_orphans(self) -> None:
        """Under the lock: take back what dead borrowers left, and what came back too early."""
        self._mend_strays()
        self._put_back_jobs()
        while self._late:
            self._take_back(*self._late[0])
        while self._orphans:
            self._reclaim(*self._orphans[0])

    def _take_back(self, slot: Slot, conn: Any, loan: int) -> None:
        """Under the lock: give back for the first of `_late`.

        Unless somebody else has given the same loan back meanwhile: what is on loan then
        is the next borrower's.
        """
        try:
            del self._late[0]
            if slot.state is LOAN and slot.watch.loan == loan and slot in self._slots:
                slot.state = RETURNING
                self._settle_if_clean(slot, conn)
        except BaseException:
            with suppress(ValueError):
                self._late.remove((slot, conn, loan))
            self._take_up(slot, loan)
            raise

    def _reclaim(self, slot: Slot, loans: Loans | None) -> None:
        """Under the lock: end the loan the first of `_orphans` is about, if it still is one."""
        conn = slot.ref() if slot.ref is not None else None
        if not self._is_orphan(slot, loans, conn):
            del self._orphans[0]
            return
        loan = slot.watch.loan
        try:
            del self._orphans[0]
            self._stats.loans_reclaimed += 1
            if not ending.is_ending():
                self._tell(
                    "a connection was never given back, closing it; borrowed %.1f s ago by %s%s%s",
                    self._clock() - slot.since,
                    explain.thread_name(slot.thread),
                    slot.at_site(),
                    slot.purpose(),
                )
            slot.state = RETURNING
            self._settle(slot, conn, self._clock(), RECLAIMED)
        except BaseException:
            with suppress(ValueError):
                self._orphans.remove((slot, loans))
            if slot.watch.loan == loan:
                slot.retire_at = AT_ONCE  # somebody may still know the connection
            self._take_up(slot, loan)
            raise

    def _is_orphan(self, slot: Slot, loans: Loans | None, conn: Any) -> bool:
        if slot.state is not LOAN or slot not in self._slots or slot.conn is not None:
            return False
        if loans is None:
            return conn is None
        # Or it was given back meanwhile, or another thread works with it, or will give it back.
        return slot.loans is loans and not _in_use(conn) and slot.pinned not in NOT_THE_THREADS

    def _take_up(self, slot: Slot, loan: int) -> None:
        """Under the lock: end a loan that is nobody's any more, wherever it has got to.

        If it was handed on before the interrupt, whoever waited may have accepted it since: then
        it is the next loan, and his.
        """
        self._strays.append(slot)
        if slot.state is LOAN and slot.watch.loan == loan:
            slot.state = RETURNING
        self._mend_strays()

    def _mend_strays(self) -> None:
        """Under the lock: bring to rest what an interrupt caught on its way from hand to hand.

        Whoever is interrupted notes it in `_strays` before it does anything about it, so that
        one more interrupt leaves it to the next who comes by. A note may outlive its purpose,
        and the slot be somebody else's by then: so nothing happens to one that is on loan.
        """
        while self._strays:
            stray = self._strays[0]
            if isinstance(stray, Slot):
                self._mend(stray)
            else:
                self._queue.leave(stray)
                slot = stray.slot
                if slot is not None:
                    if slot.state is HANDED and slot.waiter is stray:
                        slot.state = RETURNING
                    self._mend(slot)
            with suppress(ValueError):
                self._strays.remove(stray)

    def _mend(self, slot: Slot) -> None:
        """Under the lock: bring a slot to rest, unless it is."""
        if slot.state is CLOSING:
            self._send_to_close(slot)
        elif slot in self._idle:
            slot.waiter, slot.state = None, IDLE
        elif slot.state is HANDED:
            waiter = slot.waiter  # looked at once: it may accept at this moment
            if waiter is not None:
                self._queue.let_go(waiter)
        elif slot.state is RETURNING:
            slot.waiter = None
            conn = slot.conn or (slot.ref() if slot.ref is not None else None)
            self._settle_if_clean(slot, conn)

    def write_was_refused(self, slot: Slot) -> None:
        """A borrower could not write: if the server has turned read-only, none of these can.

        Such a server goes on for ever, and so would its connections. See roles.py.
        """
        this, others = after_refused_write(slot)
        if not this or self._is_put_off(partial(self.write_was_refused, slot)):
            return
        with self._lock:
            slot.retire_at = AT_ONCE
            if others and slot.generation == self._generation and not self._closed:
                self._generation += 1
                for one in self._slots:
                    one.retire_at = AT_ONCE
                self._retire_all(CONDEMNED)
                self._tell("the server has turned read-only: replacing every connection")
        self._staff()
        self._publish()

    def tick(self) -> None:
        """Do what time brings. Called by the maintenance thread at the deadline."""
        self._catch_up()
        self._look_around()
        if self._news:
            # A log handler may take its time, or borrow: the thread it would wait for then is
            # the one it would hold up.
            self._in_a_thread(self._publish, "news")

    def _look_around(self) -> None:
        """Retire, shrink, retry, and note what there is to report. Call without the lock."""
        now = self._clock()
        with self._lock:
            self._deadline = NEVER
            self._mend_idle()
            self._bury_orphans()
            self._retire_idle(now)
            self._report_leaks(now)
            hung = self._look_for_hung(now)
            self._give_up_rollbacks(now)
            self._tell_locked(now)
            self._judge()
            self._schedule(self._next_deadline())
        for slot, loan in hung:
            self._in_a_thread(partial(self._give_up_hung, slot, loan), "hung")
        self._read_answers()
        self._staff()

    def _retire_idle(self, now: float) -> None:
        """Under the lock: close what is too old, too many, or found dead at no cost."""
        live = len(self._slots) - len(self._closing)
        for slot in list(self._idle):  # longest idle first
            if now >= slot.retire_at:
                reason = EXPIRED
            elif live > self._min_size and now - slot.idle_since >= self.max_idle:
                reason = SURPLUS
            elif slot.cleaning is not None:
                if now - slot.idle_since < CLEAN_TIMEOUT or self._is_clean_by_now(slot, now):
                    continue
                reason = UNCLEAN
            elif not is_alive(slot):
                reason = LOST
                self._stats.connections_lost += 1
            else:
                continue
            live -= 1
            self._retire(slot, reason)
            self._idle.remove(slot)

    def _is_clean_by_now(self, slot: Slot, now: float) -> bool:
        """Under the lock: take the outcome of a clean-up that nobody has come for."""
        if slot.cleaning is None or not slot.cleaning.outcome():
            return False
        self._trust.answered(slot.cleaning)
        last_use = slot.cleaning.is_last_use
        slot.came_clean()
        if last_use:
            return False
        slot.vet_at = min(now + self._ping_after, slot.retire_at)
        return True

    def _attend_loan(self, slot: Slot) -> None:
        """Have a loan that begins looked at in time, where the pool looks at its loans."""
        if self.leak_after:
            self._trace(slot)
        if self.command_timeout:
            at = slot.since + self.command_timeout + GRACE
            if at < self._deadline:
                with self._lock:
                    self._schedule(at)

    def _expect_lock(self, waiter: Waiter) -> None:
        """See that somebody looks whether all wait for each other; see locking.py."""
        at = waiter.since + self._locked_after
        if self._describe is not None and at < self._deadline and self._is_all_lent():
            with self._lock:
                self._schedule(at)

    def _is_all_lent(self) -> bool:
        return self._on_loan() >= self._max_size

    def _tell_locked(self, now: float) -> None:
        """Under the lock: refuse the last in line, and what works with it, if all are locked.

        Then it gives back, and the others go on.
        """
        if not self._queue or self._describe is None or not self._is_all_lent():
            return
        at = max(self._queue[0].since, self._moved_at) + self._locked_after
        if now < at:
            self._schedule(at)
            return
        if not is_locked(self._slots, self._queue):
            self._schedule(now + max(1.0, self._locked_after))
            return
        last = self._queue[-1]
        seen = self._snapshot()
        explain.locate(seen["loans"], explain.LISTED)
        text = explain.timeout(seen, now - last.since)
        text += advice(self._slots, self._queue)
        for waiter in list(self._queue):
            if waiter is not last and (waiter.note is None or waiter.note is not last.note):
                continue
            waiter.error = PoolTimeout(text)
            self._queue.let_go(waiter)
        self._schedule(now + self._locked_after)

    def _leave_transaction(self, slot: Slot, conn: Any) -> bool:
        """Roll back what was left open, in bounded time; False when it is of no use any more."""
        now = self._clock()
        self._rolling_back[slot] = now, slot.watch.loan
        try:
            if now + CLEAN_TIMEOUT < self._deadline:
                with self._lock:
                    self._schedule(now + CLEAN_TIMEOUT)
            return rest.leave_transaction(conn)
        finally:
            self._rolling_back.pop(slot, None)

    def _give_up_rollbacks(self, now: float) -> None:
        """Under the lock: end those that their server has not answered in time."""
        for slot, (since, loan) in list(self._rolling_back.items()):
            if slot.watch.loan != loan:  # an interrupt has left the note behind
                self._rolling_back.pop(slot, None)
            elif now < since + CLEAN_TIMEOUT:
                self._schedule(since + CLEAN_TIMEOUT)
            elif is_busy(slot):
                give_up(slot)
                self._tell("a transaction could not be rolled back in %.1f s", CLEAN_TIMEOUT)

    def _look_for_hung(self, now: float) -> list[tuple[Slot, int]]:
        """Under the lock: the loans with a statement that should have ended long ago."""
        hung: list[tuple[Slot, int]] = []
        if not self.command_timeout:
            return hung
        longest, next_look = self.command_timeout + GRACE, NEVER
        for slot in self._slots:
            if slot.loans is None:
                continue
            left = longest
            if is_busy(slot):
                left -= silence(slot)
                if left <= 0:
                    left = ANSWER_TIMEOUT + LOOK_AGAIN
                    hung.append((slot, slot.watch.loan))
            next_look = min(next_look, now + max(left, LOOK_AGAIN))
        self._schedule(next_look)
        return hung

    def _give_up_hung(self, slot: Slot, loan: int) -> None:
        """In a thread: end a statement whose server does not answer anybody any more."""
        if answers(slot.pgconn):
            return
        with self._lock:
            if slot.loans is None or slot.watch.loan != loan or not is_busy(slot):
                return
            give_up(slot)
            self._condemn()
            self._tell(
                "a statement has run for longer than command_timeout (%.1f s), and its server "
                "answers nobody: giving the connection up",
                self.command_timeout,
            )
        self._staff()
        self._publish()

    def _trace(self, slot: Slot) -> None:
        """Note where a loan was taken, and have it looked at when it is due."""
        frame = userline.of_stack(sys._getframe(1), slot.note)
        slot.code, slot.line = (frame.f_code, frame.f_lineno) if frame else (None, 0)
        with self._lock:
            self._schedule(slot.since + self.leak_after)

    def _report_leaks(self, now: float) -> None:
        if not self.leak_after:
            return
        for slot in self._slots:
            if slot.loans is not None and not slot.reported and now - slot.since >= self.leak_after:
                slot.reported = True
                line = userline.of_thread(slot.thread, slot.note)
                self._tell(
                    "on loan for %.1f s to %s%s, borrowed%s%s",
                    now - slot.since,
                    explain.thread_name(slot.thread),
                    slot.purpose(),
                    slot.at_site(),
                    f", now at {line}" if line else "",
                )

    def _next_deadline(self) -> float:
        """Under the lock: the next moment at which `tick` has something to do."""
        moments = [slot.retire_at for slot in self._idle]
        moments += [slot.idle_since + CLEAN_TIMEOUT for slot in self._idle if slot.cleaning]
        if len(self._slots) - len(self._closing) > self._min_size:
            moments += [slot.idle_since + self.max_idle for slot in self._idle]
        if self.leak_after:
            moments += [
                slot.since + self.leak_after
                for slot in self._slots
                if slot.loans is not None and not slot.reported
            ]
        return min(moments, default=NEVER)


def _in_use(conn: Any) -> bool:
    """Whether a thread is in the middle of a statement on this connection."""
    lock = getattr(conn, "lock", None)
    return lock is not None and bool(lock.locked())
