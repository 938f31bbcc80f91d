"""What was done to a session since its loan began, and what it was set up with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.pq import TransactionStatus

from django_connpool.redaction import without_values

from . import pooler, private
from .foreign import ClientCursor
from .statements import (
    ANYTHING,
    CALLS,
    CHANNELS,
    DEFINES,
    DIRT,
    ENDS,
    HELD,
    MAYBE,
    NAMES,
    READS_SEQUENCES,
    RENAMED,
    ROLES,
    SETTINGS,
    STICKS,
    TEMP,
    WRITES,
    Judge,
    Known,
)

IDLE = TransactionStatus.IDLE
SANE = (IDLE, TransactionStatus.INTRANS)
_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_RENAMES = TEMP | NAMES
_MAYBE = MAYBE | SETTINGS | ROLES
_ROLLBACK = re.compile(r"\s*(?:rollback|abort)\b", re.IGNORECASE | re.ASCII)


class Changes:
    """What is known of one session's changes. Used by the thread that has the connection.

    `dirt` is what this loan may have left behind, `kept` the part of it that a rollback of
    the current transaction would not undo.
    """

    __slots__ = (
        "__weakref__",
        "_open",
        "_wrote_in",
        "announced",
        "called",
        "deferred",
        "dirt",
        "judge",
        "kept",
        "known",
        "last",
        "loan",
        "recorded",
        "records",
        "rider",
        "setup",
        "undecided",
    )

    is_blind = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.known = judge.known
        self.dirt = 0
        self.kept = 0
        self.loan = 0  # which loan of the connection this is; cursors of earlier ones are stale
        self.last: Any = None  # the last statement of this loan
        self.called = False  # functions may have run in it: what the server reports will tell
        self.announced = False  # the statement that begins next has been looked at
        self.deferred: tuple[bytes, ...] = ()  # savepoints that wait for a statement: riding.py
        self.rider: Any = None  # the class of cursors with whose statements BEGIN goes: riding.py
        self.records = False
        self.recorded = 0
        # What the session was set up with, and what kind of state that is, so that
        # it can be done again; None when that cannot be told. See setup.py.
        self.setup: list[tuple[int, bytes]] | None = []
        self.undecided: Known | bool | None = False  # by what was last decided what MAYBE means
        self._open: set[str] = set()  # psycopg's named cursors that may be open on the server
        self._wrote_in = -1  # the last loan that may have advanced a sequence

    @property
    def listens(self) -> bool:
        """Whether the session was set up to listen."""
        return any(kinds & CHANNELS for kinds, _ in self.setup or ())

    def note(self, query: Any, conn: Any) -> None:
        """A statement is about to begin."""
        self.last = query
        self.weigh(self.judge(query, conn), conn)

    def weigh(self, bits: int, conn: Any) -> None:
        """What a statement that is about to begin may do to the session."""
        if self.judge.shared and bits & pooler.LASTING:
            pooler.refuse_lasting(self.last, conn)
        if bits & READS_SEQUENCES and self._wrote_in != self.loan:
            self._forget_sequences(conn)
        if bits & WRITES:
            self._wrote_in = self.loan
            if self.setup != [] and self._was_set_up_with(TEMP):
                bits |= TEMP  # for it may be a temporary table that every borrower finds
        if bits & _RENAMES and not self.records and conn.prepare_threshold is not None:
            bits |= RENAMED
        if bits & CALLS:
            self.called = True
        if bits & DEFINES and self.judge.defined is not None:
            self.judge.defined(self)
        dirt = bits & DIRT
        at_rest = conn.pgconn.transaction_status == IDLE
        if at_rest or bits & ENDS:
            self.kept = self.dirt
        self.dirt |= dirt
        if bits & STICKS or (at_rest and conn.autocommit):
            self.kept |= dirt

    def _was_set_up_with(self, kind: int) -> bool:
        return self.setup is None or any(kinds & kind for kinds, _ in self.setup)

    def _forget_sequences(self, conn: Any) -> None:
        """Let currval() and lastval() find nothing of an earlier loan.

        Not done when a loan ends: every INSERT into a table with a serial key would make the
        session dirty, and cleaning throws the numbers away that a sequence has cached.
        """
        if forget := getattr(conn, "forget_sequences", None):  # a twin, which must not wait here
            forget()
        elif conn.pgconn.pipeline_status:
            private.put_in_line(conn, b"DISCARD SEQUENCES")
        elif conn.pgconn.transaction_status in SANE:
            conn.pgconn.exec_(b"DISCARD SEQUENCES")

    def record(self, query: Any, params: Any, conn: Any) -> None:
        """A statement that sets the session up is about to be sent."""
        if isinstance(query, str) and _ROLLBACK.match(query):
            self.take_back()
        dirt = self._dirt_of_setup(query, conn)
        self.recorded |= dirt
        if not dirt and self.judge(query, conn) & (CALLS | WRITES) == CALLS:
            dirt = _MAYBE  # it may be a function that is not known yet to do something
            self.undecided = False
        if dirt and self.setup is not None:
            text = ClientCursor(conn).mogrify(query, params)
            self.setup.append((dirt, text.encode(conn.info.encoding)))

    def use(self, judge: Judge) -> None:
        """Go by that judge from now on, or by what it has learned."""
        self.judge = judge
        self.known = judge.known

    def decide(self) -> None:
        """Say of what was done to set it up, and may have changed the session, whether it did.

        By what is known by now of the functions on the server.
        """
        hidden = self.judge.hidden
        if self.setup and self.undecided is not hidden:
            for place, (kinds, text) in enumerate(self.setup):
                if kinds & MAYBE:
                    self.setup[place] = (MAYBE | (self.judge(text) & DIRT), text)
        self.undecided = hidden

    def record_in_vain(self, query: Any, conn: Any) -> None:
        """A statement that sets the session up is about to be sent, in a way that has no text."""
        if self._dirt_of_setup(query, conn):
            self.setup = None

    def take_back(self) -> None:
        """Something is rolled back while the session is set up: who knows what of it."""
        if self.recorded:
            self.setup = None

    def forget_failed(self, recorded: int, query: Any, conn: Any) -> None:
        """A statement has failed: nothing that came after the first `recorded` ones is so."""
        if self.setup is not None:
            del self.setup[recorded:]
            if self.judge(query, conn) & ENDS:  # the first of several may have been committed
                self.take_back()

    def _dirt_of_setup(self, query: Any, conn: Any) -> int:
        bits = self.judge(query, conn)
        dirt = bits & DIRT
        if bits & WRITES and self._was_set_up_with(TEMP):
            dirt |= TEMP  # for it may be the rows of a temporary table
        return dirt

    def expect_the_worst(self) -> None:
        """A statement has begun that nobody has looked at."""
        if self.records:
            self.setup = None
        self.called = True
        self.dirt |= ANYTHING
        self.kept |= ANYTHING
        self.last = self.last or "a statement that was not seen"

    def cursor_opens(self, name: str) -> None:
        self._open.add(name)
        self.dirt |= HELD
        self.kept |= HELD

    def cursor_closes(self, name: str) -> None:
        self._open.discard(name)
        if not self._open:
            self.dirt &= ~HELD
            self.kept &= ~HELD

    def rolled_back(self) -> None:
        """The transaction in which the last statements ran was rolled back, for certain."""
        self.dirt = self.kept

    def forget(self) -> None:
        """The session has been cleaned, or has just been set up."""
        self.dirt = self.kept = 0
        self._open.clear()

    def text_of_last(self) -> str:
        """The last statement, for a message: without its values."""
        last = self.last  # looked at once: another thread may ask
        return "" if last is None else without_values(last)


class BlindChanges(Changes):
    """Of a session whose statements may go unseen: every loan may have left anything behind."""

    __slots__ = ()

    is_blind = True

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self.forget()

    def forget(self) -> None:
        super().forget()
        self.dirt = self.kept = ANYTHING

    def cursor_closes(self, name: str) -> None:
        self._open.discard(name)


@contextmanager
def rolling_back(conn: Any) -> Iterator[None]:
    """Around a rollback of the whole transaction: what that undoes is no dirt any more.

    Certain only of a transaction that they have seen begin; those of psycopg's
    `transaction()` blocks and of two-phase commits begin elsewhere.
    """
    changes = of(conn)
    certain = (
        changes is not None
        and conn.pgconn.transaction_status in _OPEN
        and not private.is_in_block(conn)
    )
    yield
    if changes is not None and certain:
        changes.rolled_back()


def of(conn: Any) -> Changes | None:
    """Those of a connection's session; None where nobody looks at its statements."""
    changes: Changes | None = getattr(conn, "_changes", None)
    return changes


def judge_by(conn: Any, judge: Judge) -> None:
    """Have what is done to a session judged by this judge, and by what it has learned."""
    changes = of(conn)
    if changes is not None:
        changes.use(judge)
