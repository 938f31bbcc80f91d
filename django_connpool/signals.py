"""Signals of the pools. What each brings, and in which thread, tells docs/signals.md."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from django.dispatch import Signal

logger = logging.getLogger("django_connpool.signals")

# Sent when this process makes a pool, with the argument `pool`. Receivers must not raise.
pool_created = Signal()

# Sent before a pool opens a connection, in the thread that opens it, with the argument `alias`.
# Receivers must not raise.
connecting = Signal()

# All that follow have the arguments `pool` and `name`, which is the pool's. They are sent outside
# of all locks, and what a receiver raises is logged and goes no further.

# Somebody has borrowed after standing in line: `waited`, seconds. In the borrower's thread, where
# the connection is in hand already.
connection_waited = Signal()

# Somebody has waited for a connection in vain: `waited`, seconds, and `error`, the PoolTimeout.
# In that thread, before the error is raised.
borrow_timed_out = Signal()

# A loan has lasted for longer than `leak_after`: `held`, seconds; `thread`, its name; `work`, what
# it is for; `borrowed_at` and `now_at`, lines of the user's code. Texts are empty when not known.
connection_leaked = Signal()

# A connection is closed, and its place free: `reason`, one of the keys of "closed_for" in a
# snapshot.
connection_closed = Signal()

# Connecting has failed, and had not failed before: `error`, what was raised.
outage_began = Signal()

# Connecting succeeds again: `lasted`, seconds.
outage_ended = Signal()

_SIGNALS = {
    "connection_waited": connection_waited,
    "borrow_timed_out": borrow_timed_out,
    "connection_leaked": connection_leaked,
    "connection_closed": connection_closed,
    "outage_began": outage_began,
    "outage_ended": outage_ended,
}


class _Present(threading.local):
    def __init__(self) -> None:
        self.telling: set[str] = set()  # what this thread is telling of


_present = _Present()


class Events:
    """Sends what happens in a pool: see `Events` in pool/protocols.py."""

    def are_heard(self, event: str) -> bool:
        # Not by the method of the signal's, which may take a lock.
        return bool(_SIGNALS[event].receivers) and event not in _present.telling

    def tell(self, event: str, pool: Any, facts: Mapping[str, object]) -> None:
        if not self.are_heard(event):  # or a receiver that waits for a connection would hear of it
            return
        _present.telling.add(event)
        try:
            _SIGNALS[event].send_robust(sender=type(pool), pool=pool, name=pool.name, **facts)
        except Exception:  # Django logs what receivers raise
            logger.exception("%s: a signal could not be sent", pool.name)
        finally:
            _present.telling.discard(event)
