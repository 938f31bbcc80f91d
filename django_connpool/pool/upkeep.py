"""What time brings to a pool: ages, leaks, statements without an answer, the next deadline."""

from __future__ import annotations

import inspect
from functools import partial

from django_connpool.process import bursts, userline
from django_connpool.process.background import NEVER

from . import explain, offers, view
from .core import AUDIT_EVERY, CLEAN_TIMEOUT, Core
from .crew import Crew
from .locking import advice, is_locked
from .news import LEAKED
from .prospects import judge
from .slot import EXPIRED, IDLE, LOST, SURPLUS, TAKEN, UNCLEAN, Slot

logger = bursts.logger("loans")
sessions_logger = bursts.logger("sessions")

GRACE = 1.0  # seconds past `command_timeout` for the server's own answer to arrive
ANSWER_TIMEOUT = 2.0  # seconds for it to say that it is alive
LOOK_AGAIN = 0.5  # seconds


class Upkeep:
    """A task of the process's background thread, and what loans ask of it."""

    def __init__(self, core: Core, crew: Crew) -> None:
        self._core = core
        self._crew = crew

    def run(self, now: float) -> float:
        """Do what time brings; return when to come again. The background thread calls it."""
        self.look_around()
        # A log handler may take its time, or borrow: the thread it would wait for then is the one
        # it would hold up.
        self._crew.tell()
        return self._core.deadline

    def look_around(self) -> None:
        """Retire, shrink, retry, and note what there is to report. Call without the lock."""
        core, now = self._core, self._core.clock()
        with core.lock:
            core.deadline = NEVER
            core.catch_up()
            core.audit()
            core.bring_in()
            self._retire_idle(now)
            self._report_leaks(now)
            hung = self._look_for_hung(now)
            self._give_up_rollbacks(now)
            self._tell_locked(now)
            judge(core)
            view.look(core, now)
            overdue = offers.overdue(core, now)
            core.schedule(self._next_deadline(now))
        if overdue:
            self._crew.in_a_thread(partial(offers.take_from, overdue), "offers")
        for slot, loan in hung:
            self._crew.in_a_thread(partial(self._give_up_hung, slot, loan), "hung")
        self.read_answers()
        self._crew.staff()

    def read_answers(self) -> None:
        """Have a thread read what servers have told. Call without the lock."""
        if self._core.opener.has_answers and not self._core.winding_up:
            self._crew.in_a_thread(self._core.opener.read_answers, "functions")

    # -- Idle connections -----------------------------------------------------------------

    def _retire_idle(self, now: float) -> None:
        """Under the lock: close what is too old, too many, or found dead at no cost."""
        core, slots = self._core, self._core.slots
        staying = slots.staying()
        for slot in list(slots.idle):  # longest idle first
            if now >= slot.retire_at:
                reason = EXPIRED
            elif staying > core.limits.min_size and now - slot.idle_since >= core.limits.max_idle:
                reason = SURPLUS
            elif slot.session.cleaning is not None:
                if now - slot.idle_since < CLEAN_TIMEOUT:
                    continue
                if slot.session.cleaned():
                    slot.vet_at = min(now + core.limits.ping_after, slot.retire_at)
                    continue
                reason = UNCLEAN
            elif not slot.session.is_alive():
                reason = LOST
                core.stats.connections_lost += 1
            else:
                continue
            staying -= 1
            slots.retire(slot, reason)
            slots.idle.remove(slot)

    def _next_deadline(self, now: float) -> float:
        """Under the lock: the next moment at which there is something to do."""
        core, slots = self._core, self._core.slots
        moments = [slot.retire_at for slot in slots.all if slot.state is IDLE or slot.is_offered]
        moments += [slot.idle_since + CLEAN_TIMEOUT for slot in slots.idle if slot.session.cleaning]
        if slots.staying() > core.limits.min_size:
            moments += [slot.idle_since + core.limits.max_idle for slot in slots.idle]
        if core.limits.leak_after:
            moments += [
                (now if slot.is_offered else slot.used_since) + core.limits.leak_after
                for slot in slots.all
                if slot.loans is not None and not slot.reported and not slot.lasts
            ]
        if core.line:
            moments.append(now + AUDIT_EVERY)
        return min(moments, default=NEVER)

    # -- Loans ----------------------------------------------------------------------------

    def attend_loan(self, slot: Slot) -> None:
        """Have a loan that begins looked at in time, where the pool looks at its loans."""
        core = self._core
        if core.limits.leak_after:
            frame = userline.of_stack(inspect.currentframe(), slot.note)
            slot.code, slot.lineno = (frame.f_code, frame.f_lineno) if frame else (None, 0)
            self.come_by(slot.since + core.limits.leak_after)
        if core.limits.command_timeout:
            self.come_by(slot.since + core.limits.command_timeout + GRACE)

    def come_by(self, at: float) -> None:
        """Have it be looked around no later than at that moment. Call without the lock."""
        if at < self._core.deadline:
            with self._core.lock:
                self._core.schedule(at)

    def _report_leaks(self, now: float) -> None:
        core = self._core
        if not core.limits.leak_after:
            return
        for slot in core.slots.all:
            held = now - slot.used_since
            if (
                slot.loans is not None
                and not slot.reported
                and not slot.is_offered
                and not slot.lasts
                and slot.pinned is not TAKEN  # by who gives it back in its borrower's stead
                and held >= core.limits.leak_after
            ):
                slot.reported = True
                core.stats.loans_leaked += 1
                line = userline.of_thread(slot.thread, slot.trail)
                core.warn_later(
                    logger,
                    "%s: on loan for %.1f s to %s%s, borrowed%s%s",
                    held,
                    explain.name_of(slot.loans),
                    slot.purpose(),
                    slot.at_site(),
                    f", now at {line}" if line else "",
                    held=held,
                )
                core.news.note(
                    LEAKED,
                    held=held,
                    thread=explain.name_of(slot.loans),
                    work=str(slot.note or ""),
                    borrowed_at=slot.site(),
                    now_at=line,
                )

    def _give_up_rollbacks(self, now: float) -> None:
        """Under the lock: end those that their server has not answered in time."""
        for slot in self._core.slots.all:
            if slot.rolling_back is None or slot.rolling_back[1] != slot.loan:
                continue
            until = slot.rolling_back[0] + CLEAN_TIMEOUT
            if now < until:
                self._core.schedule(until)
            elif slot.session.is_busy():
                slot.session.give_up()
                text = "%s: a transaction could not be rolled back in %.1f s"
                self._core.warn_later(sessions_logger, text, CLEAN_TIMEOUT)

    def _look_for_hung(self, now: float) -> list[tuple[Slot, int]]:
        """Under the lock: the loans with a statement that should have ended long ago."""
        core = self._core
        hung: list[tuple[Slot, int]] = []
        if not core.limits.command_timeout:
            return hung
        longest, next_look = core.limits.command_timeout + GRACE, NEVER
        for slot in core.slots.all:
            if slot.loans is None:
                continue
            left = longest
            if slot.session.is_busy():
                left -= slot.session.silence()
                if left <= 0:
                    left = ANSWER_TIMEOUT + LOOK_AGAIN
                    hung.append((slot, slot.loan))
            next_look = min(next_look, now + max(left, LOOK_AGAIN))
        core.schedule(next_look)
        return hung

    def _give_up_hung(self, slot: Slot, loan: int) -> None:
        """In a thread: end a statement whose server does not answer anybody any more."""
        core, session = self._core, slot.session
        if not session.has_vanished():
            return
        with core.lock:
            if slot.loans is None or slot.loan != loan or not session.is_busy():
                return
            session.give_up()
            core.condemn()
            core.warn_later(
                sessions_logger,
                "%s: a statement has run for longer than command_timeout (%.1f s), and its server "
                "answers nobody: giving the connection up",
                core.limits.command_timeout,
            )
        self._crew.staff()
        core.news.log_warnings()

    # -- Who waits ------------------------------------------------------------------------

    def expect_lock(self, since: float) -> None:
        """See that somebody looks whether all wait for each other; see locking.py."""
        core = self._core
        at = since + core.limits.locked_after
        if at < core.deadline and core.describe is not None and self._is_all_lent():
            self.come_by(at)

    def _is_all_lent(self) -> bool:
        return self._core.slots.on_loan() >= self._core.limits.max_size

    def _tell_locked(self, now: float) -> None:
        """Under the lock: refuse the last in line, and what works with it, if all are locked.

        Then it gives back, and the others go on.
        """
        core = self._core
        if not core.line or core.describe is None or not self._is_all_lent():
            return
        after = core.limits.locked_after
        at = max(core.line[0].since, core.moved_at) + after
        if now < at:
            core.schedule(at)
            return
        if not is_locked(core.slots.all, core.line):
            core.schedule(now + max(1.0, after))
            return
        last = core.line[-1]
        error = view.timeout(core, now - last.since, advice(core.slots.all, core.line))
        for waiter in list(core.line):
            if waiter is not last and (waiter.note is None or waiter.note is not last.note):
                continue
            waiter.error = refusal = core.errors.timeout(str(error))
            refusal.numbers = core.numbers(waited=now - waiter.since)  # type: ignore[attr-defined]
            core.line.let_go(waiter)
        core.schedule(now + after)
