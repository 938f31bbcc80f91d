"""What a pool is made of: its settings, its state, and what follows from them.

How the pool is put together, for the reader:

* A `Slot` is a place of `max_size` with a connection in it. `_slots` holds all of them;
  each is idle (in `_idle`), on loan, being opened (in `_opening`) or closed (in `_closing`).
* `_lock` guards those collections, the queue, the outage and the counters. It is held for
  a few lines at a time and never while anything blocks.
* What blocks (connecting, closing) is done by workers: threads that live as long as there
  is such work. Deadlines are the business of the process's one maintenance thread.
* Whoever finds, under the lock, that something is to be done notes it in the collections;
  `_staff` then finds workers for it. So an interrupt can delay a piece of work, not lose it.

One class, in rooms that build on each other: `Core` (the state), `Line` (slots from hand to
hand), `Supply` (opening and closing), `Upkeep` (what time and dead borrowers bring),
`Lending` (borrowing and giving back), `ConnectionPool` (the whole, as its users see it).
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from psycopg.pq import TransactionStatus

from django_connpool.pool.trust import Trust
from django_connpool.process import uwsgi
from django_connpool.process.background import NEVER, maintenance
from django_connpool.session.statements import Judge

from . import explain
from .abc import CheckParam, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam, ResetParam
from .errors import PoolClosed
from .outage import Outage, told
from .queue import Waiter, WaitQueue
from .slot import ON_LOAN, Loans, Slot
from .stats import Stats

logger = logging.getLogger("django_connpool.pool")


class Core:
    """The settings and the state of a pool. Methods whose docstring says so need `_lock`."""

    # Every loan looks at two dozen of these: in slots that takes a tenth off it. What users or
    # tools put on a pool besides goes in its dictionary.
    __slots__ = (
        "_asks_each",
        "_check",
        "_clock",
        "_closed",
        "_closing",
        "_configure",
        "_deadline",
        "_describe",
        "_dirt_of",
        "_dropped",
        "_full",
        "_generation",
        "_grew_at",
        "_idle",
        "_keep_min",
        "_last_error",
        "_late",
        "_line_since",
        "_lock",
        "_locked_after",
        "_max_size",
        "_mean_connect",
        "_min_size",
        "_moved_at",
        "_news",
        "_opened",
        "_opening",
        "_orphans",
        "_outage",
        "_ping_after",
        "_put_off",
        "_queue",
        "_reconnect_failed",
        "_reset",
        "_restores",
        "_rolling_back",
        "_self",
        "_serving",
        "_slots",
        "_stats",
        "_strays",
        "_strict",
        "_suspended",
        "_tidies_always",
        "_to_close",
        "_trust",
        "_warmed",
        "_winding_up",
        "close_returns",
        "command_timeout",
        "connection_class",
        "conninfo",
        "jitter",
        "kwargs",
        "leak_after",
        "max_connecting",
        "max_idle",
        "max_lifetime",
        "max_uses",
        "max_waiting",
        "name",
        "num_workers",
        "outage_patience",
        "reconnect_timeout",
        "timeout",
    )

    # Settings; times are seconds. See ConnectionPool.
    conninfo: ConninfoParam
    kwargs: KwargsParam | None
    connection_class: Any
    name: str
    close_returns: bool
    timeout: float
    max_waiting: int
    max_lifetime: float
    max_idle: float
    max_uses: int
    max_connecting: int
    reconnect_timeout: float
    outage_patience: float
    num_workers: int
    jitter: float
    leak_after: float
    command_timeout: float | None
    _min_size: int
    _max_size: int
    _keep_min: bool  # `min_size` is opened and kept, not only not closed
    _warmed: bool  # and that because `warm` was called
    _configure: ConnectionCB | None
    _check: CheckParam
    _asks_each: bool  # before each loan, however fresh a connection is
    _reset: ResetParam
    _reconnect_failed: ConnectFailedCB | None
    _describe: Callable[[], object] | None
    _ping_after: float
    _locked_after: float  # seconds of stillness, after which all may wait for each other
    _restores: bool  # sessions that were changed, when given back
    _tidies_always: bool  # every session, not only one that looks changed
    _strict: bool  # a transaction left open is an error
    _dirt_of: Judge  # a statement: what it may leave behind in its session
    _clock: Callable[[], float]
    _opened: bool  # ever

    def _start_empty(self) -> None:
        """The state of a pool with no connection: when new, and in a forked child."""
        self._self: weakref.ref[Any] = weakref.ref(self, _wake_maintenance)
        # Reentrant: a finalizer or signal handler may run in the middle of a section below,
        # in the thread that holds it, and borrow or give back. See `putconn`.
        self._lock: Any = threading.RLock()
        # Guarded by _lock:
        self._slots: set[Slot] = set()  # every place taken, in whatever state
        self._idle: list[Slot] = []  # last given back is last, and lent first
        self._opening: set[Slot] = set()  # attempts to connect under way
        self._closing: set[Slot] = set()
        self._to_close: deque[Slot] = deque()  # those of _closing no worker has taken up
        self._queue = WaitQueue()
        self._line_since = 0.0  # when the queue was last empty
        self._moved_at = 0.0  # when somebody in it last got a connection given back
        self._grew_at = 0.0  # when an attempt to connect was last started for it
        self._serving = False  # open and not suspended: idle connections may be lent
        self._closed = True
        self._suspended = False
        self._outage: Outage | None = None
        self._last_error: BaseException | None = None
        self._generation = 0
        self._deadline = NEVER  # of the maintenance thread
        self._mean_connect = 0.0  # seconds, moving average
        self._stats = Stats()
        self._full: list[threading.Event] = []  # of those in wait()
        self._winding_up = False  # closed, or the process is ending: what comes back is closed
        # Loans whose transaction is being rolled back: since when, and which loan of theirs it is.
        self._rolling_back: dict[Slot, tuple[float, int]] = {}
        # Appended to without the lock, by finalizers, at any instruction; see `orphaned`.
        self._orphans: deque[tuple[Slot, Loans | None]] = deque()
        # What there is to log; see `_tell`.
        self._news: deque[tuple[str, tuple[object, ...]]] = deque()
        # Given back by a finalizer inside the lock: the slots, their connections, and which
        # loans of theirs that ends.
        self._late: deque[tuple[Slot, Any, int]] = deque()
        # Interrupted on their way from hand to hand, and nobody's any more; see `_mend_strays`.
        self._strays: deque[Slot | Waiter] = deque()
        # Jobs of workers that were interrupted; see `_staff`.
        self._dropped: deque[list[Slot]] = deque()
        # Whether it is known which functions on the server change a session.
        self._trust = Trust(self._dirt_of)
        if self._restores:
            self._dirt_of.defined = self._trust.defined
        # What a signal handler asked for inside the lock; see `_is_put_off`.
        self._put_off: deque[Callable[[], None]] = deque()

    def _on_loan(self) -> int:
        return len(self._slots) - len(self._idle) - len(self._opening) - len(self._closing)

    def _lacks_minimum(self) -> bool:
        if self._winding_up or self._closed or not self._keep_min:
            return False
        if len(self._slots) - len(self._closing) >= self._min_size:
            return False
        # Whoever waits for them in such a process gets them; else those it forks open their own.
        return bool(self._full) or not uwsgi.is_loading()

    def _schedule(self, at: float) -> None:
        """Under the lock: have `tick` called at that moment, or earlier."""
        if at < self._deadline:
            maintenance.schedule(self._self, at)
            self._deadline = at

    def _tell(self, text: str, *args: object) -> None:
        """Under the lock: log a warning, once the lock is free.

        A handler may do what it likes, and one that writes to the database borrows.
        """
        self._news.append((text, args))

    def _publish(self) -> None:
        while self._news:
            with suppress(IndexError):  # another thread took the last
                text, args = self._news.popleft()
                logger.warning("%s: " + text, self.name, *args)

    def _snapshot(self) -> dict[str, Any]:
        """Under the lock. Where the holders are is still to be found: see `explain.locate`."""
        now = self._clock()
        return {
            "name": self.name,
            "min_size": self._min_size,
            "max_size": self._max_size,
            "size": len(self._slots),
            "idle": len(self._idle),
            "in_use": self._on_loan(),
            "opening": len(self._opening),
            "closing": len(self._closing),
            "waiting": len(self._queue),
            "longest_wait": now - self._queue[0].since if self._queue else 0.0,
            "closed": self._closed,
            "suspended": self._suspended,
            "last_error": told(self._outage) if self._outage is not None else None,
            "stats": self._stats.as_dict(),
            "loans": [_loan(slot, now) for slot in self._slots if _is_somebodys(slot)],
        }

    def _measures(self) -> dict[str, int]:
        return {
            "pool_min": self._min_size,
            "pool_max": self._max_size,
            "pool_size": len(self._slots),
            "pool_available": len(self._idle),
            "requests_waiting": len(self._queue),
        }

    def _check_open(self) -> None:
        if self._closed:
            state = "is closed" if self._opened else "is not open yet"
            raise PoolClosed(f"pool {self.name!r} {state}")

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.name!r}>"


def _is_somebodys(slot: Slot) -> bool:
    """Whether the slot is on loan, and not just being looked at."""
    return slot.state in ON_LOAN and (slot.loans is not None or slot.waiter is not None)


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
        "backend_pid": slot.backend_pid,
        "transaction": TransactionStatus(slot.pgconn.transaction_status).name,
    }


def _wake_maintenance(_: object) -> None:
    """A pool was dropped: perhaps the thread is not needed any more. For the interpreter."""
    if maintenance is not None:  # which it is when the interpreter has almost ended
        maintenance.poke()
