"""Lending to the tasks of an event loop: they stand in line like threads, but no thread waits.

A task is served by direct hand-off, like everybody else, and woken in its loop. Nothing here
waits for a server in the loop's thread: what may take its time (a ping, a check, the outcome of a
clean-up, a rollback) is done by a short thread, and the task waits for that.

A loan belongs to the task that borrowed: it comes back when the task ends, or when nobody can
reach the connection any more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

from django_connpool.process.cpython import running_loop

from .core import CLEAN_TIMEOUT
from .pool import Pool
from .slot import IDLE, LOAN, TAKEN, Slot
from .tasks import Errand, Glance, Outcome, Place, Task, TaskLoans, TaskWaiter, look_at_error, tell

OFTEN = 0.001  # seconds in line after which what others do not use is looked for


class Awaited(Pool):
    """A pool that lends to tasks, too."""

    # -- Borrowing ------------------------------------------------------------------------

    def lend_at_once(self) -> Any:
        """Borrow for the running task what is idle and needs no other look than at its socket.

        None when there is no such connection: then `lend` does what there is to do.
        """
        core, task = self._core, _this_task()
        if not core.slots.idle:
            return None
        glance = Glance(core, self._settle)
        with glance:
            now = core.clock()
            slot = self._take_idle(glance, now)
            if slot is None:
                return None
            if not slot.session.is_alive():
                self._checking.is_fit(slot, now, 0.0)  # it is not
                with core.lock:
                    core.stats.requests_num -= 1  # it is asked once more
                return None
            return self._begin_loan(task, slot, now)

    async def lend(self, timeout: float | None = None) -> Any:
        """Borrow for the running task, waiting at most `timeout` seconds (the pool's by default).

        What is returned is given back by `take_back`. Raises what `getconn` does.
        """
        core, task = self._core, _this_task()
        place = Place(core, self._settle)
        with place:
            since = None
            slot = self._take_idle(place)
            now = core.clock()
            if slot is not None and not await self._fits(place, slot, now, timeout):
                slot, since = None, now
            if slot is None:
                slot = await self._turn_of(task, place, timeout, since)
                now = core.clock()
            return self._begin_loan(task, slot, now)

    def _begin_loan(self, task: Task, slot: Slot, now: float) -> Any:
        """Return the connection, which its session forgets: see `Session`."""
        core, session = self._core, slot.session
        slot.since = now
        slot.loans = loans = TaskLoans(task, slot)
        loans.begin()
        if core.describe is not None:
            slot.note = core.describe()
        if core.limits.times_loans:
            self._upkeep.attend_loan(slot)
        session.conn.__dict__["_pool"] = self
        try:  # without a variable for it: an error may keep this frame, and it for ever
            return session.conn
        finally:
            session.conn = None

    def _take_idle(self, glance: Glance, now: float | None = None) -> Slot | None:
        """The next idle one; with `now` only if its socket's silence is believed at that moment."""
        core = self._core
        idle = core.slots.idle
        with core.lock:
            if not (core.serving and idle and (last := idle[-1]).state is IDLE):
                return None
            if last.session.cleaning is not None:
                last = core.slots.prefer_ready()
            if now is not None and now >= last.vet_at:
                return None
            # In this order, as in `getconn`.
            glance.slot, last.state = last, LOAN
            del idle[-1]
            core.stats.requests_num += 1
        return last

    async def _fits(self, place: Place, slot: Slot, now: float, timeout: float | None) -> bool:
        """Whether it may be lent; when not, it is on its way out."""
        if now < slot.vet_at and slot.session.is_alive():
            return True
        if not self._checking.takes_time(slot, now):
            fits = self._checking.is_fit(slot, now, timeout)
        else:
            work = partial(self._checking.is_fit, slot, now, timeout)
            errand = Errand(self._core, slot, work)
            place.slot, place.errand = None, errand
            self._crew.in_a_thread(errand.run, "checks")
            fits = await errand.outcome()
        place.slot, place.errand = (slot if fits else None), None
        return fits

    async def _turn_of(
        self, task: Task, place: Place, timeout: float | None, since: float | None
    ) -> Slot:
        """As `_wait_for_slot`: the next idle one that is fit, or what comes to the line."""
        core = self._core
        seconds = core.limits.timeout if timeout is None else timeout
        now = core.clock()
        began = now if since is None else since
        note = core.describe() if core.describe is not None else None
        place.waiter = waiter = TaskWaiter(core, task, began, since is not None, note)
        has_queued = False
        while True:
            # Whoever stands in line already has looked, and is looked after.
            if core.limits.has_offers and not core.line:
                self._watch.serve(1)
            with core.lock:
                queued = self._stand_in_line(waiter, seconds)
            if core.warnings:
                self._crew.in_a_thread(core.news.log_warnings, "warnings")
            if queued:
                has_queued = True
                self._upkeep.expect_lock(waiter.since)
                if len(core.slots) < core.limits.max_size or core.slots.to_close:
                    self._crew.staff()
                if core.limits.has_offers:
                    self._watch.come_by(core.clock() + OFTEN)
                await waiter.wait_its_turn(began + seconds - now)
            slot = self._accept(place, waiter, seconds)
            if slot is not None:
                now = core.clock()
                is_fresh = queued and self._checking.is_fresh(slot, now)
                if is_fresh or await self._fits(place, slot, now, began + seconds - now):
                    if has_queued:
                        slot.waited = slot.loan, now - began
                    place.waiter = None
                    return slot
            place.waiter = waiter = waiter.again()
            now = core.clock()

    def _accept(self, place: Place, waiter: TaskWaiter, seconds: float) -> Slot | None:
        """What it was given; None when it is to stand in line again. Raises why there is nothing.

        It may have left without its knowledge: its loop stood still when it was served.
        """
        core = self._core
        with core.lock:
            if waiter.left:
                return None
            slot: Slot | None = waiter.slot
            if slot is not None:
                # One line, so that no interrupt finds a slot that is accepted and nobody's.
                place.slot, slot.waiter, slot.state = slot, None, LOAN
                return slot
        if waiter.error is not None:
            raise waiter.error
        self._leave_line(waiter, seconds)
        return self._accept(place, waiter, seconds)  # served at the last moment

    def _settle(self) -> None:
        """Do at once what the notes say: somebody else may be waiting for it."""
        with self._core.lock:
            self._core.catch_up()
        if self._core.slots.to_close:
            self._crew.staff()

    # -- Giving back ----------------------------------------------------------------------

    def take_back(self, conn: Any, rolls_back: bool = False) -> asyncio.Future[None] | None:
        """Give back what was lent to a task.

        What has to wait for the server, or calls what is the user's, is done by a thread. Then
        a future tells when that has come to its end, where a loop runs; nobody has to wait for it.
        `rolls_back`: that a transaction is left open is as it should be.
        """
        slot: Slot | None = getattr(conn, "_slot", None)
        loans = slot.loans if slot is not None else None
        if slot is None or not slot.session.takes_time():
            self.putconn(conn)
            if isinstance(loans, TaskLoans):  # last: until then the end of its task gives back
                loans.end()
            return None
        if isinstance(loans, TaskLoans):
            loans.end()
        slot.pinned = TAKEN
        outcome = Outcome(running_loop())
        put_back = partial(self._put_back, conn, rolls_back, outcome)
        self._crew.in_a_thread(put_back, "returns")
        return outcome.future

    def complaint(self, conn: Any) -> str:
        """What is wrong with giving it back at this moment; logged, unless `strict`."""
        return self._complaint(conn._slot)

    def take_back_after(
        self,
        ending: asyncio.Future[None],
        conn: Any,
        rolls_back: bool = False,
        complaint: str = "",
    ) -> asyncio.Future[None]:
        """The same, when something in the loop has come to its end.

        `complaint`: what whoever gives back is told then.
        """
        slot: Slot = conn._slot
        if isinstance(slot.loans, TaskLoans):
            slot.loans.end()
        slot.pinned = TAKEN
        told = self._core.errors.misuse(f"pool {self._core.name!r}: {complaint}")
        failure = told if complaint else None
        future = ending.get_loop().create_future()
        future.add_done_callback(look_at_error)

        def go_on(_: object) -> None:
            try:
                returned = self.take_back(conn, rolls_back)
            except Exception as error:
                tell(future, None, failure or error)
                return
            if returned is None:
                tell(future, None, failure)
            else:
                returned.add_done_callback(lambda it: tell(future, None, failure or it.exception()))

        ending.add_done_callback(go_on)
        return future

    def _put_back(self, conn: Any, rolls_back: bool, outcome: Outcome) -> None:
        with outcome:
            if rolls_back:
                self._roll_back(conn)
            self.putconn(conn)

    def _roll_back(self, conn: Any) -> None:
        """So that nothing is said of it. What fails is met again by who makes the session fit."""
        slot: Slot = conn._slot
        now = self._core.clock()
        slot.rolling_back = now, slot.loan  # or it is given up, when it takes too long
        self._upkeep.come_by(now + CLEAN_TIMEOUT)
        with suppress(self._core.errors.failed, self._core.errors.misuse):
            conn.rollback()


def _this_task() -> Task:
    task = asyncio.current_task() if running_loop() is not None else None
    if task is None:
        raise RuntimeError(
            "a connection is lent to a task of asyncio's, and none runs here. psycopg's async "
            "connections know no other event loop (uvloop's is one of asyncio's; trio's is none): "
            "with anyio choose its asyncio backend"
        )
    return task
