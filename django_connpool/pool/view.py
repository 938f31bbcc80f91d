"""What there is to see of a pool, at one moment. All of it needs the pool's lock."""

from __future__ import annotations

from typing import Any

from . import explain
from .core import Core
from .outage import in_words
from .slot import Slot


def snapshot(core: Core) -> dict[str, Any]:
    """Under the lock. Where the holders are is still to be found: see `explain.locate`."""
    now = core.clock()
    in_use = core.slots.in_use()
    return {
        "name": core.name,
        "min_size": core.limits.min_size,
        "max_size": core.limits.max_size,
        "size": len(core.slots.all),
        "idle": len(core.slots.idle),
        "in_use": in_use,
        "offered": core.slots.on_loan() - in_use,
        "peak": max(core.stats.peak, in_use),
        "opening": len(core.slots.opening),
        "closing": len(core.slots.closing),
        "waiting": len(core.line),
        "longest_wait": now - core.line[0].since if core.line else 0.0,
        "closed": core.closed,
        "suspended": core.suspended,
        "last_error": in_words(core.outage) if core.outage is not None else None,
        "stats": core.stats.as_dict(),
        "loans": [_loan(slot, now) for slot in core.slots.all if slot.is_somebodys],
        "backends": [slot.session.backend_pid for slot in core.slots.all if slot.has_session],
    }


def measures(core: Core) -> dict[str, int]:
    return {
        "pool_min": core.limits.min_size,
        "pool_max": core.limits.max_size,
        "pool_size": len(core.slots.all),
        "pool_available": len(core.slots.idle),
        "requests_waiting": len(core.line),
    }


def timeout(core: Core, seconds: float, advice: str = "") -> Exception:
    """Under the lock: the error of a waiter whose time is over."""
    seen = snapshot(core)
    explain.locate(seen["loans"], explain.LISTED)
    return core.errors.timeout(explain.timeout(seen, seconds) + advice)


def _loan(slot: Slot, now: float) -> dict[str, Any]:
    """One loan as a snapshot shows it; a slot just handed over is its waiter's already."""
    lent = slot.loans is not None
    waiter = slot.waiter  # looked at once: it accepts without the lock, and is gone then
    thread = slot.thread if lent or waiter is None else waiter.thread
    return {
        "held": max(0.0, now - (slot.since if lent else slot.idle_since)),
        "thread": explain.thread_name(thread),
        "thread_id": thread,
        "note": (slot.note and str(slot.note)) or None,
        "taken_at": (lent and slot.site()) or None,  # with `leak_after`
        "at": slot.note,  # see explain.locate
        "pinned": slot.pinned,
        "offered": slot.is_offered,
        "backend_pid": slot.session.backend_pid,
        "number": slot.loan,  # of the loans of this connection
        "transaction": slot.session.transaction(),
    }
