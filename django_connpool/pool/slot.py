"""One place of `max_size`, with the session in it and its loan."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol

from django_connpool.process.background import NEVER

if TYPE_CHECKING:
    from django_connpool.process.threads import Job

    from .line import Waiter
    from .protocols import Session

# The states of a slot. A slot is in exactly one of them; every count of the pool is
# derived from them.
IDLE = "idle"  # waiting for a borrower
HANDED = "handed"  # given to a waiter that has not woken up yet; counts as on loan
LOAN = "on loan"
RETURNING = "returning"  # the loan is over, the slot not yet at rest
ON_LOAN = (HANDED, LOAN, RETURNING)
OPENING = "opening"
CLOSING = "closing"  # still counts: the server has not let go of it
GONE = "gone"

# Why a connection is closed: the keys of the `closed_for` counts.
LOST = "lost"
EXPIRED = "expired"
SURPLUS = "surplus"
CONDEMNED = "condemned"
DRAINED = "drained"
UNUSABLE = "unusable"
RECLAIMED = "reclaimed"
UNCLEAN = "unclean"
POOL_CLOSED = "pool closed"
GIVEN_UP = "given up"  # to another pool, with which it shares a bound
REASONS = (
    *(LOST, EXPIRED, SURPLUS, CONDEMNED, DRAINED, UNUSABLE, RECLAIMED, UNCLEAN, POOL_CLOSED),
    GIVEN_UP,
)

# Why a loan goes on that somebody is ending in its borrower's stead; see offers.py. He does so
# also when the borrower's thread has ended.
TAKEN = "about to be given back by another thread"


class LoanKeeper(Protocol):
    """What a slot tells of what happens to its loan: the pool's core."""

    def orphaned(self, slot: Slot, loans: Loans | None) -> None: ...

    def dropped(self, slot: Slot, conn: Any) -> None: ...

    def write_was_refused(self, slot: Slot) -> None: ...

    def put(self, *note: Any) -> None: ...


class Loans(set["Slot"]):
    """What a thread has borrowed; or one loan, when it may outlive its thread."""

    __slots__ = ("ended", "thread")

    def __init__(self, thread: int, slots: Iterable[Slot] = ()) -> None:
        super().__init__(slots)
        self.thread = thread  # its identifier
        self.ended = False  # it is gone

    @property
    def task_name(self) -> str:
        """That of a task has one: see tasks.py."""
        return ""


class Lasting(Loans):
    """One loan that belongs to no thread, and is not given back for long: why it is not."""

    __slots__ = ("_why",)

    def __init__(self, slot: Slot, why: str) -> None:
        super().__init__(0, (slot,))
        self._why = why

    @property
    def task_name(self) -> str:
        return self._why

    def coroutine(self) -> Any:
        """None runs for it."""
        return None


class Slot:
    """A place in the pool. Its loan is kept in the same object, but can die on its own.

    `state` and `waiter` are written under the pool's lock, but for two plain steps: a waiter
    accepts what it was handed, and whoever is interrupted with a loan in hand says by RETURNING
    that it is nobody's any more. All else is written by whoever has the slot: the borrower while
    it is on loan, a worker while it is opened or closed.
    """

    __slots__ = (
        "__weakref__",
        "again",
        "code",
        "core",
        "counted",
        "generation",
        "idle_limit",
        "idle_since",
        "job",
        "lineno",
        "loan",
        "loans",
        "note",
        "offer",
        "opened_at",
        "patience",
        "pinned",
        "place",
        "reason",
        "reported",
        "retire_at",
        "rolling_back",
        "session",
        "since",
        "state",
        "turned_at",
        "uses",
        "vet_at",
        "waited",
        "waiter",
    )

    session: Session  # None while it is opened

    def __init__(self, core: weakref.ref[Any], generation: int) -> None:
        self.core: weakref.ref[LoanKeeper] = core  # the pool's
        self.state = OPENING
        self.session = None  # type: ignore[assignment]
        self.generation = generation
        self.opened_at = 0.0
        self.retire_at = NEVER  # past this it is replaced, idle or not
        self.vet_at = NEVER  # past this a borrower looks closer than the socket
        self.idle_since = 0.0
        self.uses = 0
        self.reason = ""  # why it is being closed
        self.place: int | None = None  # of a bound that is shared with others; see sharing.py
        self.job: Job | None = None  # of the worker that opens or closes it
        self.waiter: Waiter | None = None  # the one it is being handed to
        self.loan = 0  # its number: another for each
        # Loans that began with what was parked: written by the borrower, counted under the lock.
        self.again = self.counted = 0
        # The loan:
        self.since = 0.0
        # Of a loan that stood in line, until that is told: its number, and the seconds waited.
        self.waited: tuple[int, float] | None = None
        self.loans: Loans | None = None  # what its thread has borrowed, this included
        self.note: object = None  # what it is for, as text by str()
        self.pinned: str | None = None  # why it lasts longer than a transaction, if it should not
        # While its borrower does not use it; see offers.py. Written by the borrower.
        self.offer: Any = None
        self.turned_at = 0.0  # since when it is on offer, or in use again
        self.patience = NEVER  # seconds for which it is not taken for those who wait
        self.idle_limit = NEVER  # seconds after which it is taken although nobody waits
        self.code: CodeType | None = None  # where it was borrowed
        self.lineno = 0
        self.reported = False  # held longer than `leak_after`, and said so
        # Since when its transaction is being rolled back, and which loan of the session it is.
        self.rolling_back: tuple[float, int] | None = None

    # -- What happens to a loan -----------------------------------------------------------

    def connection_died(self, ref: weakref.ref[Any]) -> None:
        """The connection was collected: called by the interpreter, at any instruction."""
        if (core := self.core()) is not None:
            core.orphaned(self, None)

    def thread_ended(self, loans: Loans) -> None:
        """The thread that borrowed it has ended: called by a finalizer, at any instruction."""
        if (core := self.core()) is not None:
            core.orphaned(self, loans)

    def write_was_refused(self) -> None:
        """A borrower could not write, because the server is read-only."""
        if (core := self.core()) is not None:
            core.write_was_refused(self)

    def plans_are_stale(self) -> None:
        """What its session has prepared is no good any more; what its contemporaries have, too."""
        if (core := self.core()) is not None:
            core.put(_replace, self.generation)

    # -- What there is to say of it -------------------------------------------------------

    @property
    def has_session(self) -> bool:
        return self.session is not None

    @property
    def is_nobodys(self) -> bool:
        """Of one that is opened, closed or checked: whether no worker is at it."""
        return self.job is None or self.job.over

    @property
    def is_somebodys(self) -> bool:
        """Whether it is on loan, and not just being looked at."""
        return self.state in ON_LOAN and (self.loans is not None or self.waiter is not None)

    @property
    def used_since(self) -> float:
        """Since when its borrower has gone on to use it, in monotonic seconds."""
        return max(self.since, self.turned_at)

    @property
    def is_unused(self) -> bool:
        """Whether it is on loan, and its borrower does not use it at the moment."""
        return bool(self.offer)

    @property
    def is_offered(self) -> bool:
        """Whether, besides, whoever waits may take it."""
        return self.is_unused and self.patience < NEVER

    @property
    def is_parked(self) -> bool:
        """Whether its loan is over, but for where the connection is; see parking.py."""
        return self.is_unused and bool(self.offer.ended)

    def is_orphan(self, loans: Loans | None) -> bool:
        """Under the lock: whether nobody will give it back. `loans`: of a thread that has ended."""
        session = self.session
        if session.conn is not None:
            return False
        if loans is None:
            return session.is_gone
        # Or it was given back meanwhile, or another thread works with it, or will give it back.
        return self.loans is loans and not session.in_use() and self.pinned is not TAKEN

    @property
    def lasts(self) -> bool:
        """Whether its borrower has said that it keeps it for long."""
        return isinstance(self.loans, Lasting)

    @property
    def is_left_behind(self) -> bool:
        """Whether the thread whose loan it is has ended."""
        loans = self.loans
        return loans is not None and loans.ended

    @property
    def thread(self) -> int:
        """The thread whose loan it is; 0 when it is none."""
        loans = self.loans  # looked at once: it may end at this moment
        return 0 if loans is None else loans.thread

    @property
    def trail(self) -> object:
        """What leads to the line its borrower is at, where that is a coroutine's: see userline."""
        loans = self.loans
        return loans if loans is not None and loans.task_name else self.note

    def site(self) -> str:
        """Where it was borrowed; empty when not known."""
        code = self.code
        return f"{code.co_filename}:{self.lineno} in {code.co_name}" if code else ""

    def at_site(self) -> str:
        """Where it was borrowed, as text that may follow a verb; empty when not known."""
        return f" at {site}" if (site := self.site()) else ""

    def purpose(self) -> str:
        """What it was borrowed for, as text that may follow a name; empty when not known."""
        note = str(self.note or "")
        return f" ({note})" if note else ""

    def __repr__(self) -> str:
        return f"<Slot {self.state}>"


def _replace(core: Any, generation: int) -> None:
    """Under the lock: replace every connection, unless that has been done since this generation."""
    if generation == core.generation:
        core.renew(DRAINED)
        core.schedule(core.clock())
