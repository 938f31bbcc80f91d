"""One place of `max_size`, with the physical connection in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

from django_connpool.process.background import NEVER
from django_connpool.session.objects import Birth, reported
from django_connpool.session.statements import RENAMED, ROLES, SETTINGS

if TYPE_CHECKING:
    import psycopg

    from django_connpool.session.cleaning import Cleaning
    from django_connpool.session.closing import End
    from django_connpool.session.liveness import LastWords
    from django_connpool.session.roles import Role
    from django_connpool.session.watch import Watch

    from .pool import ConnectionPool
    from .queue import Waiter

# The states of a slot. A slot is in exactly one of them; every count of the pool is
# derived from them.
IDLE = "idle"  # waiting for a borrower; `conn` holds the connection
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

# Why a loan goes on whose connection waits for the next statement of its thread, or was taken from
# that. Somebody gives it back also when there is no such thread any more.
BURST = "a burst of statements"
RECALLED = "recalled, about to be given back"
NOT_THE_THREADS = (BURST, RECALLED)

_REPORTED = SETTINGS | ROLES  # what the server reports is of these kinds


class Loans(set["Slot"]):
    """What a thread has borrowed; or one loan, when it may outlive its thread."""

    __slots__ = ("thread",)

    def __init__(self, thread: int, slots: Iterable[Slot] = ()) -> None:
        super().__init__(slots)
        self.thread = thread  # its identifier


class Slot:
    """A place in the pool. Its loan is kept in the same object, but can die on its own.

    While the connection is lent, `conn` is None: the borrower's reference is the only
    strong one, so that a connection nobody can reach any more is noticed (`ref` calls
    back) instead of being lost. `pgconn` stays, to close what the borrower forgot.

    Fields are written by whoever has the slot (the borrower while on loan, a worker while
    opening or closing) except `state`, `conn` and `waiter`, which need the pool's lock.
    """

    __slots__ = (
        "__weakref__",
        "backend_pid",
        "birth",
        "cleaning",
        "code",
        "conn",
        "consume_input",
        "end",
        "generation",
        "get_result",
        "idle_since",
        "last_words",
        "line",
        "loans",
        "note",
        "opened_at",
        "pgconn",
        "pinned",
        "pool",
        "reason",
        "ref",
        "reported",
        "retire_at",
        "role",
        "since",
        "state",
        "uses",
        "vet_at",
        "waiter",
        "watch",
    )

    conn: Any  # the psycopg connection; None while lent, opening or gone
    pgconn: Any
    consume_input: Callable[[], object]  # of pgconn; see probe.is_alive
    get_result: Callable[[], object]
    last_words: LastWords
    end: End | None  # see closing.py
    ref: weakref.ref[psycopg.Connection[Any]] | None
    role: Role  # what the server was when the session began
    birth: Birth  # the connection object as it was when new
    watch: Watch  # what is known of the session
    cleaning: Cleaning | None  # the session's clean-up, while its outcome is not known

    def __init__(self, pool: weakref.ref[ConnectionPool[Any]], generation: int) -> None:
        self.pool = pool
        self.state = OPENING
        self.generation = generation
        self.conn = None
        self.pgconn = None
        self.end = None
        self.ref = None
        self.cleaning = None
        self.backend_pid = 0
        self.opened_at = 0.0
        self.retire_at = NEVER  # past this it is replaced, idle or not
        self.vet_at = NEVER  # past this a borrower looks closer than the socket
        self.idle_since = 0.0
        self.uses = 0
        self.reason = ""  # why it is being closed
        self.waiter: Waiter | None = None  # the one it is being handed to
        # The loan:
        self.since = 0.0
        self.loans: Loans | None = None  # what its thread has borrowed, this included
        self.note: object = None  # what it is for, as text by str()
        self.pinned: str | None = None  # why it lasts longer than a transaction, if it should not
        self.code: CodeType | None = None  # where it was borrowed
        self.line = 0
        self.reported = False  # held longer than `leak_after`, and said so

    def connection_died(self, ref: weakref.ref[psycopg.Connection[Any]]) -> None:
        """The connection was collected: called by the interpreter, at any instruction."""
        if (pool := self.pool()) is not None:
            pool.orphaned(self, None)

    def dirt(self) -> int:
        """What its borrower may have left in the session, as far as can be told from outside."""
        watch = self.watch
        if watch.called and reported(self.pgconn) != self.birth.reported:
            return watch.dirt | _REPORTED | RENAMED
        return watch.dirt

    @property
    def thread(self) -> int:
        """The thread whose loan it is; 0 when it is none."""
        loans = self.loans  # looked at once: it may end at this moment
        return 0 if loans is None else loans.thread

    def came_clean(self) -> None:
        """Its clean-up has succeeded."""
        cleaning, self.cleaning = self.cleaning, None
        if (
            cleaning is not None
            and cleaning.undoes & _REPORTED == _REPORTED
            and self.birth.reported  # a driver of another kind does not tell
        ):
            # Else a setting that changed with the server's configuration would have every
            # loan cleaned from then on.
            self.birth.reported = reported(self.pgconn)

    def bury(self) -> None:
        """The place is free and this object of no more use."""
        self.state = GONE
        self.conn = self.end = self.ref = self.waiter = self.loans = self.cleaning = None

    def site(self) -> str:
        """Where it was borrowed; empty when not known."""
        code = self.code
        return f"{code.co_filename}:{self.line} in {code.co_name}" if code else ""

    def at_site(self) -> str:
        """Where it was borrowed, as text that may follow a verb; empty when not known."""
        return f" at {site}" if (site := self.site()) else ""

    def purpose(self) -> str:
        """What it was borrowed for, as text that may follow a name; empty when not known."""
        note = str(self.note or "")
        return f" ({note})" if note else ""

    def __repr__(self) -> str:
        return f"<Slot {self.state} backend {self.backend_pid or '-'}>"
