"""Whether a connection may be served, and what becomes of one that may not."""

from __future__ import annotations

from typing import Any

from django_connpool.process import bursts
from django_connpool.redaction import one_line

from .core import CLEAN_TIMEOUT, Core
from .crew import FRESH, Crew
from .outage import UNFIT
from .prospects import end_outage, note_refusal
from .slot import EXPIRED, LOAN, LOST, UNCLEAN, Slot
from .upkeep import Upkeep

logger = bursts.logger("sessions")
connecting_logger = bursts.logger("connecting")

LEAST_ANSWER_TIMEOUT = 0.1  # seconds a server may take, however little time its borrower has
PING_TIMEOUT = 5.0  # seconds
JUST_USED = 0.001  # seconds since its last borrower's last statement, which has proved its life


class Checking:
    """Looks at a slot that is its caller's, in state LOAN, and not lent yet."""

    def __init__(self, core: Core, crew: Crew, upkeep: Upkeep) -> None:
        self._core = core
        self._crew = crew
        self._upkeep = upkeep

    def is_fit(self, slot: Slot, now: float, timeout: float | None) -> bool:
        """Whether an idle connection may be served; when not, it is on its way out."""
        cleaned = slot.session.cleaning is not None
        if cleaned and not self._came_clean(slot, timeout):
            return False
        if now >= slot.retire_at:
            self.discard(slot, EXPIRED)
            return False
        if not slot.session.is_alive():
            self._discard_dead(slot)
            return False
        if cleaned:  # which was as good as a ping
            return not self._core.limits.has_check or self._passes_check(slot, timeout)
        return now < slot.vet_at or self._passes_check(slot, timeout)

    def takes_time(self, slot: Slot, now: float) -> bool:
        """Whether `is_fit` may wait for the server, or calls what is the user's."""
        if slot.session.cleaning is not None:
            return self._core.limits.has_check or not slot.session.is_ready()
        return slot.vet_at <= now < slot.retire_at

    def is_fresh(self, slot: Slot, now: float) -> bool:
        """Of one that was handed over: whether it may be served without another look.

        Given back a moment ago it needs no ping. But it may have died unnoticed by a borrower that
        did not use it any more.
        """
        session = slot.session
        is_fresh = session.cleaning is None and now < slot.idle_since + FRESH
        return (
            is_fresh
            and not self._core.limits.asks_each
            and (now < slot.turned_at + JUST_USED or session.is_alive())
        )

    def _came_clean(self, slot: Slot, timeout: float | None) -> bool:
        """Take the outcome of a clean-up, which is a proof of life; False when it is out."""
        patience = self._patience(CLEAN_TIMEOUT, timeout)
        outcome = slot.session.cleaned(patience)
        self._upkeep.read_answers()
        if outcome:
            slot.vet_at = min(self._core.clock() + FRESH, slot.retire_at)
            return True
        if slot.session.is_lost:
            self._discard_dead(slot)
            return False
        if slot.session.cleaning is not None:  # else it has done its last
            logger.warning(
                "%s: a session could not be cleaned, closing it%s",
                self._core.name,
                "" if outcome is False else f": it took more than {patience:.1f} s",
                extra=self._core.numbers(reason=UNCLEAN),
            )
        self.discard(slot, UNCLEAN)
        return False

    def _passes_check(self, slot: Slot, timeout: float | None) -> bool:
        core = self._core
        if not core.limits.has_check:
            fits = slot.session.answers(self._patience(PING_TIMEOUT, timeout))
            if not fits:
                self._discard_dead(slot)
            return fits
        asked_at = core.clock()
        try:
            slot.session.check()
        except Exception as error:
            self._discard_unfit(slot, error, asked_at)
            return False
        self._note_passed_check()
        return True

    def _patience(self, longest: float, timeout: float | None) -> float:
        """How many seconds a server may take to answer a borrower with so much time left."""
        seconds = self._core.limits.timeout if timeout is None else timeout
        return min(longest, max(LEAST_ANSWER_TIMEOUT, seconds))

    # -- What is not served ---------------------------------------------------------------

    def discard(self, slot: Slot, reason: str, conn: Any = None) -> None:
        """End a loan by closing the connection; its place is filled again when needed."""
        core = self._core
        with core.lock:
            if slot.state is not LOAN:  # another thread has given it back meanwhile
                return
            core.stats.returns_bad += conn is not None  # else it was not lent yet
            kept = slot.session.conn if conn is None else conn
            core.settle(slot, kept, core.clock(), reason)
        self._crew.staff()

    def _discard_dead(self, slot: Slot) -> None:
        """A connection was found dead: its generation goes with it."""
        with self._core.lock:
            self._crew.lose(slot)
        self._crew.staff()

    def _discard_unfit(self, slot: Slot, error: Exception, asked_at: float) -> None:
        """The user's check refuses a connection; those that come after may be as bad.

        What dies of old age is replaced at once. But what is refused when it has just been
        opened counts as a failed attempt to connect, so that the next one waits a little.
        """
        core = self._core
        text, extra = "%s: a connection failed its check: %s", core.numbers(reason=UNFIT)
        connecting_logger.info(text, core.name, one_line(error), extra=extra)
        with core.lock:
            core.slots.retire(slot, LOST)
            core.stats.connections_lost += 1
            if isinstance(error, core.errors.failed):
                core.condemn()
            if asked_at < slot.opened_at + FRESH:
                note_refusal(core, error, core.clock(), UNFIT)
            core.last_error = error
        self._crew.staff()
        self._crew.tell()

    def _note_passed_check(self) -> None:
        """What the user's check had refused, if anything, is over."""
        core, outage = self._core, self._core.outage
        if outage is not None and outage.kind == UNFIT:
            with core.lock:
                if core.outage is outage:
                    end_outage(core, core.clock())
            self._crew.staff()
            self._crew.tell()
