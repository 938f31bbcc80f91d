"""What there is to see of a pool, at one moment. All of it needs the pool's lock."""

from __future__ import annotations

from typing import Any, cast

from . import explain
from .core import Core
from .outage import Outage, in_words
from .slot import Slot


def snapshot(core: Core) -> dict[str, Any]:
    """Under the lock. Where the holders are is still to be found: see `explain.locate`."""
    now = core.clock()
    look(core, now)
    loans = [_loan(slot, now) for slot in core.slots.all if slot.is_somebodys]
    backends = [slot.session.backend_pid for slot in core.slots.all if slot.has_session]
    return {**numbers(core, now), "loans": loans, "backends": backends}


def numbers(core: Core, now: float) -> dict[str, Any]:
    """Under the lock: what there is to count, which is the snapshot but for the loans."""
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
        "outage": _outage(core.outage, now) if core.outage is not None else None,
        "dead_holders": sum(slot.is_left_behind for slot in core.slots.all),
        "stats": core.stats.as_dict(),
        "bounds": core.sharing.seen() if core.sharing is not None else [],
    }


def look(core: Core, now: float) -> None:
    """Under the lock: note for the history what there is."""
    slots, line = core.slots, core.line
    waits = now - line[0].since if line else 0.0
    longest = max(waits, core.stats.wait.take_longest())
    in_use = slots.in_use()
    offered = slots.on_loan() - in_use
    moment = core.history.look(now, in_use, offered, len(slots.idle), len(line), longest)
    core.history.count_timeouts(moment, core.stats.requests_timeouts)


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
    text = explain.timeout(seen, seconds) + advice
    now = core.clock()
    text += explain.connecting(now - slot.opened_at for slot in core.slots.opening)
    core.history.tell(now, "timeout", text)
    error: Any = core.errors.timeout(text)
    error.numbers = core.numbers(waited=max(0.0, seconds))
    return cast(Exception, error)


def _loan(slot: Slot, now: float) -> dict[str, Any]:
    """One loan as a snapshot shows it; a slot just handed over is its waiter's already."""
    lent = slot.loans is not None
    waiter = slot.waiter  # looked at once: it accepts without the lock, and is gone then
    owner: Any = waiter if not lent and waiter is not None else slot.loans
    return {
        "held": max(0.0, now - (slot.since if lent else slot.idle_since)),
        "thread": explain.name_of(owner) if owner is not None else explain.thread_name(0),
        "thread_id": owner.thread if owner is not None else 0,
        "note": (slot.note and str(slot.note)) or None,
        "taken_at": (lent and slot.site()) or None,  # with `leak_after`
        "at": slot.trail,  # see explain.locate
        "statement": (slot, slot.loan),  # see `say_statements`
        "leak": slot.reported,
        "pinned": slot.pinned,
        "offered": slot.is_offered,
        "backend_pid": slot.session.backend_pid,
        "number": slot.loan,  # of the loans of this connection
        "transaction": slot.session.transaction(),
    }


def _outage(outage: Outage, now: float) -> dict[str, Any]:
    return {
        "kind": outage.kind,
        "since": max(0.0, now - outage.since),
        "failed": max(0.0, now - outage.failed_at),
        "attempts": outage.attempts,
        "young": outage.is_young(now),
    }


def say_statements(loans: list[dict[str, Any]]) -> None:
    """Put the last statement of each loan, without its values, in the place of its slot.

    Call without the lock: a long one takes a millisecond to read.
    """
    for loan in loans:
        slot, number = loan["statement"]
        text = slot.session.last_statement()
        loan["statement"] = (slot.loan == number and text) or None
