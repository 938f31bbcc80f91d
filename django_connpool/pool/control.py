"""What is done to a pool as a whole: open, close, drain, resize, suspend; and at a fork."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from django_connpool.process.background import AT_ONCE
from django_connpool.redaction import one_line, public

from . import explain, view
from .core import Core
from .crew import Crew
from .prospects import end_waits, tell_if_full
from .slot import DRAINED, GONE, LOAN, POOL_CLOSED, SURPLUS


class Control:
    """The verbs of a pool. See ConnectionPool, whose methods of these names call them."""

    def __init__(self, core: Core, crew: Crew) -> None:
        self._core = core
        self._crew = crew

    def _act(self, act: Callable[[Core], None]) -> None:
        """Do this under the lock, and have done what follows from it.

        What a signal handler did inside the lock would happen under the hands of the code it
        interrupted, which has looked already at what there is: so that is left to others.
        """
        core = self._core
        if core.is_inside():
            core.put(act)
            return
        with core.lock:
            act(core)
        self._crew.staff()

    def open(self) -> None:
        core = self._core
        with core.lock:
            if core.closed:
                if core.opened:
                    text = f"pool {core.name!r} was closed and cannot be opened again"
                    raise core.errors.closed(text)
                core.opened = True
                core.closed = False
                core.serving = True
        self._crew.staff()

    def warm(self) -> None:
        self._core.keep_min = self._core.warmed = True
        self._crew.staff()

    def wait(self, timeout: float) -> None:
        core = self._core
        done = threading.Event()
        with core.lock:
            core.check_open()
            core.full.append(done)
            tell_if_full(core)
        self._crew.staff()
        if done.wait(timeout):
            core.check_open()
            return
        self.close(5.0)
        text = (
            f"pool {core.name!r}: {core.limits.min_size} connections were not open within "
            f"{timeout:.2f} s"
        )
        if core.last_error is None:
            raise core.errors.timeout(text)
        text += f"; connecting last failed with: {one_line(core.last_error)}"
        raise core.errors.timeout(text) from public(core.last_error)

    def close(self, timeout: float) -> None:
        core = self._core
        if core.closed and not core.winding_up:  # not open yet
            return
        # Again, when it was closed before: an interrupt may have struck in the middle.
        if core.is_inside():
            core.put(_close)
            return
        with core.lock:
            _close(core)
        self._crew.close_all(timeout)

    def drain(self) -> None:
        self._core.check_open()
        self._act(_drain)

    def resize(self, min_size: int, max_size: int) -> None:
        limits = self._core.limits
        limits.check_sizes(min_size, max_size)

        def act(core: Core) -> None:
            limits.min_size, limits.max_size, limits.most = min_size, max_size, max_size
            _shrink(core, max_size)
            tell_if_full(core)

        self._act(act)

    def close_idle(self) -> None:
        self._core.check_open()
        self._act(_close_idle)

    def cancel(self, backend_pid: int, number: int | None, timeout: float) -> bool:
        core = self._core
        with core.lock:
            core.bring_in()
            for slot in core.slots.all:
                if slot.state is LOAN and slot.session.backend_pid == backend_pid:
                    break
            else:
                text = f"pool {core.name!r} has no loan of backend {backend_pid}"
                raise core.errors.misuse(text)
            # It may come late, and is not to hit another's statement. First, because the borrower
            # may begin his next loan of it without the lock, but not once it is to be replaced.
            before, slot.retire_at = slot.retire_at, AT_ONCE
            interrupt = slot.session.interrupt()
            is_over = number is not None and slot.loan != number
            if is_over or interrupt is None:
                slot.retire_at = before
            if is_over:
                text = f"pool {core.name!r}: that loan of backend {backend_pid} is over"
                raise core.errors.misuse(text)
        if interrupt is not None:
            interrupt(time.monotonic() + timeout)  # a connection of its own, without the lock
        return interrupt is not None

    def suspend(self) -> None:
        self._core.check_open()
        self._act(_suspend)

    def resume(self) -> None:
        self._core.check_open()
        self._act(_resume)

    def check(self) -> None:
        if self._core.is_inside():
            self._core.put(_doubt)
            return
        self._crew.check_idle()
        self._crew.staff()

    # -- The process ----------------------------------------------------------------------

    def rest_if_unused(self) -> None:
        """Undo `warm` in a process that has forked and never borrowed itself.

        Such is the master of a server that loads the application before it forks its
        workers (gunicorn's --preload). The workers fill up at their first use.
        """
        core = self._core
        with core.lock:
            core.bring_in()
            used = core.stats.mean_hold() is not None or core.slots.on_loan() or core.line
            if used or not core.warmed or core.slots.opening:
                return
            core.keep_min = core.warmed = False
            core.slots.retire_all(SURPLUS)
        self._crew.staff()

    def leave(self) -> None:
        """The process is ending: close what is idle, and what comes back from now on."""
        core = self._core
        core.winding_up = True
        with core.lock:
            core.bring_in()
            core.slots.retire_all(POOL_CLOSED)
        self._crew.close_all(0.0)
        # For threads that nobody waits for: they will not come to do it.
        main = threading.main_thread().ident
        for slot in list(core.slots.all):
            if slot.state is LOAN and slot.thread != main:
                self._crew.say_goodbye_for_borrower(slot)

    def abandon(self, grave: Any) -> None:
        """In a forked child: forget the parent's connections without touching its sockets."""
        core = self._core
        slots, was_open, suspended = list(core.slots.all), not core.closed, core.suspended
        core.start_empty()
        if core.sharing is not None:
            core.sharing.forget()
        core.opener.forget()
        self._crew.forget()
        core.closed, core.suspended = not was_open, suspended
        core.serving = was_open and not suspended
        for slot in slots:
            if slot.has_session:
                slot.session.bury(grave)
            slot.state = GONE
            slot.waiter = slot.loans = None

    # -- What there is to see -------------------------------------------------------------

    def stats(self, anew: bool = False) -> dict[str, int]:
        """The counters, and sizes now; with `anew` counting starts anew."""
        core = self._core
        with core.lock:
            core.bring_in()
            stats = core.stats
            if anew:
                core.stats = stats.anew()
            return stats.as_dict() | view.measures(core)

    def durations(self) -> dict[str, list[float]]:
        with self._core.lock:
            self._core.bring_in()
            return self._core.stats.kept()

    def numbers(self) -> dict[str, Any]:
        core = self._core
        with core.lock:
            core.bring_in()
            return view.numbers(core, core.clock()) | core.stats.in_detail()

    def snapshot(self) -> dict[str, Any]:
        core = self._core
        with core.lock:
            core.bring_in()
            seen = view.snapshot(core) | core.stats.in_detail()
            now = core.clock()
            seen["history"] = core.history.moments(now)
            seen["events"] = core.history.events(now)
        # Without the lock: what other threads' frames let go of meanwhile dies here.
        explain.locate(seen["loans"])
        view.say_statements(seen["loans"])
        return seen

    def glance(self) -> dict[str, Any]:
        """What a snapshot tells, but for all that takes time to find out."""
        core = self._core
        with core.lock:
            core.bring_in()
            seen = view.snapshot(core)
        for loan in seen["loans"]:
            loan["at"] = loan["statement"] = None
        return seen


def _close(core: Core) -> None:
    core.closed = core.winding_up = True
    core.serving = core.suspended = False
    core.bring_in()
    text = f"pool {core.name!r} was closed while waiting"
    core.line.refuse_all(lambda: core.errors.closed(text))
    end_waits(core)
    core.dismiss_if_done()
    core.slots.retire_all(POOL_CLOSED)


def _drain(core: Core) -> None:
    core.renew(DRAINED)
    if any(slot.is_unused for slot in core.slots.all):  # its borrower may not come back for long
        core.schedule(core.clock())


def _close_idle(core: Core) -> None:
    _shrink(core, core.limits.min_size)


def _shrink(core: Core, size: int) -> None:
    """Close idle connections, the longest idle first, until there are no more than so many."""
    core.bring_in()
    excess = core.slots.staying() - size
    for slot in core.slots.idle[: max(0, excess)]:
        core.slots.retire(slot, SURPLUS)
        core.slots.idle.remove(slot)


def _doubt(core: Core) -> None:
    """Have each idle connection be asked before it is lent."""
    core.bring_in()
    for slot in core.slots.idle:
        slot.vet_at = AT_ONCE


def _suspend(core: Core) -> None:
    if not core.closed:  # since it was asked for
        core.suspended, core.serving = True, False
        core.bring_in()


def _resume(core: Core) -> None:
    if not core.closed:
        core.suspended, core.serving = False, True
        if core.outage is not None:
            core.outage.resume(core.clock())
        core.serve_line()
