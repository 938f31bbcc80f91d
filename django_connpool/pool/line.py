"""Slots on their way from hand to hand. All of this happens under the pool's lock."""

from __future__ import annotations

from typing import Any

from django_connpool.process.background import AT_ONCE
from django_connpool.session.cleaning import CLEAN_TIMEOUT
from django_connpool.session.rest import is_at_rest

from .core import Core
from .queue import Waiter
from .slot import (
    CLOSING,
    CONDEMNED,
    DRAINED,
    EXPIRED,
    GONE,
    HANDED,
    IDLE,
    POOL_CLOSED,
    RECLAIMED,
    RETURNING,
    SURPLUS,
    Slot,
)

COUNT_AT = 256  # loans of a connection, after which those noted are counted


class Line(Core):
    """A slot that comes free goes to the first in line, to the idle ones, or out."""

    def _settle(self, slot: Slot, conn: Any, now: float, unfit: str = "") -> None:
        """Under the lock: end the loan, if any, and bring the connection to rest.

        It goes to the first in line, to the idle ones, or out: if it is `unfit`, which says
        why, or for a reason of the pool's. Every loan comes by here, so this calls nothing
        that it can do itself.
        """
        loans = slot.loans
        if loans is not None:  # or it was not lent, or an interrupt struck before it was
            loans.discard(slot)
            slot.loans = None
            if self.max_uses:
                slot.uses += 1
                if slot.uses == self.max_uses:
                    slot.retire_at = AT_ONCE
            self._stats.hold.note(now - slot.since)
            if slot.reported:
                slot.reported = False
                held = now - slot.since
                self._tell("a loan reported as a leak was given back after %.1f s", held)
        if unfit:
            self._retire(slot, unfit)
            slot.conn = conn  # last: an interrupt in between must not make it look tidied
            return
        slot.conn = conn
        slot.note = slot.pinned = None
        watch = slot.watch
        watch.loan = loan = watch.loan + 1
        watch.last, watch.called = None, False
        if watch.dirt or slot.birth.touch.touched:
            watch.forget()
            slot.birth.loan_begins()
        if not loan % COUNT_AT:
            self._stats.count()
        queue, waiter = self._queue, None
        if queue and self._serving:
            waiter = queue[0]
            if waiter.slot is not None or self._strays:
                waiter = self._first_waiting()
        if (
            now >= slot.retire_at
            or len(self._slots) > self._max_size + len(self._closing)
            or (self._winding_up and waiter is None)
        ):
            self._retire(slot, self._reason_to_close(slot))
            return
        slot.idle_since = now
        vet_at = now + self._ping_after
        slot.vet_at = vet_at if vet_at < slot.retire_at else slot.retire_at
        if slot.cleaning is not None:
            slot.vet_at = AT_ONCE
            self._schedule(now + CLEAN_TIMEOUT)
        if waiter is not None:
            self._stats.wait.note(now - waiter.since)
            slot.waiter = waiter
            waiter.slot, slot.state = slot, HANDED
            del queue[0]
            # Last: until this thread waits for something both are awake, one of them in vain.
            # But inside the lock: a signal handler that borrows would wait behind a sleeper.
            waiter.wake()
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

    def _settle_if_clean(self, slot: Slot, conn: Any) -> None:
        """Under the lock, where nothing may be sent: keep a session only if it is clean."""
        if conn is not None:
            conn.__dict__["_pool"] = None
        is_clean = conn is not None and self._is_clean(slot, conn)
        self._settle(slot, conn, self._clock(), "" if is_clean else RECLAIMED)

    def _is_clean(self, slot: Slot, conn: Any) -> bool:
        try:
            return bool(
                slot.cleaning is None
                and is_at_rest(conn)
                and not slot.dirt()
                and not slot.birth.differs(conn)
                # It is in the slot as long as it was not lent, and again once it was tidied.
                and (slot.conn is conn or not (self._tidies_always or self._trust.lost))
            )
        except Exception:  # what its borrower has set does not let itself be compared
            return False

    def _hand_over(self, slot: Slot, waiter: Waiter, now: float) -> None:
        """Under the lock: give a slot to the first in line, and wake it."""
        self._stats.wait.note(now - waiter.since)
        slot.waiter = waiter
        waiter.slot, slot.state = slot, HANDED
        self._queue.let_go(waiter)

    def _first_waiting(self) -> Waiter | None:
        """Under the lock: the first in line that nobody has served yet."""
        while self._queue:
            waiter = self._queue[0]
            if waiter.slot is None and waiter not in self._strays:
                return waiter
            self._queue.let_go(waiter)  # an interrupt kept it in line
        return None

    def _serve_line(self) -> None:
        """Under the lock: hand idle connections to those in line."""
        self._mend_idle()
        while self._serving and self._idle and (waiter := self._first_waiting()) is not None:
            slot = self._idle[-1]
            try:
                slot.state = RETURNING
                del self._idle[-1]
                self._hand_over(slot, waiter, self._clock())
            except BaseException:
                if slot.state is HANDED:
                    self._queue.let_go(waiter)
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

    def _retire_all(self, reason: str) -> None:
        """Under the lock: every idle connection on the way out."""
        while self._idle:
            self._retire(self._idle[-1], reason)
            del self._idle[-1]

    def _retire(self, slot: Slot, reason: str) -> None:
        """Under the lock: a slot that is nobody's any more on the way out.

        The order matters to an interrupt between the lines: a slot that is CLOSING but in
        no collection is put there by the next try, by `_mend` or by `_mend_idle`.
        """
        if slot.state is GONE:
            return
        if slot.state is not CLOSING:
            slot.reason = reason
            slot.state = CLOSING
        self._send_to_close(slot)

    def _send_to_close(self, slot: Slot) -> None:
        """Under the lock: see that a CLOSING slot is in the collections, once."""
        if slot not in self._closing:
            if slot not in self._to_close:
                self._to_close.append(slot)
            self._closing.add(slot)

    def _condemn(self) -> None:
        """Under the lock: close the idle connections without trying them on a borrower.

        What killed one (a restart, a failover, a firewall) killed its contemporaries.
        Loans prove themselves by being used.
        """
        self._retire_all(CONDEMNED)
