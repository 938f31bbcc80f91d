"""One connection to the server, from a pool's point of view: lend it, see that it is as it was."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import OperationalError
from psycopg.pq import TransactionStatus

from django_connpool.process import bursts, cpython
from django_connpool.redaction import named, one_line

from . import changes, cleaning, foreign, liveness, rest, roles, tidying
from .closing import Interrupt, await_end, bury, say_goodbye
from .objects import SIGN, Original, reported
from .statements import CHANNELS, RENAMED, ROLES, SETTINGS
from .wire import Wire

if TYPE_CHECKING:
    from .policy import Policy

logger = bursts.logger("sessions")

# Why a session is not kept.
UNUSABLE = "unusable"
UNCLEAN = "unclean"

_REPORTED = SETTINGS | ROLES  # what the server reports is of these kinds


class SessionKeeper(Protocol):
    """Where a session is kept."""

    session: Any

    def connection_died(self, ref: weakref.ref[Any]) -> None:
        """What was lent was collected. The interpreter calls it, at any instruction."""

    def write_was_refused(self) -> None:
        """A borrower could not write, for the server is read-only."""

    def plans_are_stale(self) -> None:
        """What psycopg has prepared in it is no good any more."""


class Session(Wire):
    """A connection, what is known of it, and how to make it as it was when it was new.

    While it is lent, `conn` is None: the borrower's reference is the only strong one, so that
    a connection nobody can reach any more is noticed (`_sign` calls back) instead of being lost.
    `pgconn` stays, to close what the borrower forgot.

    Used by one thread at a time: the borrower, or who makes it fit for the next. `rest` and
    `is_clean` may be called under the pool's lock, so they send nothing.
    """

    __slots__ = (
        "__weakref__",
        "_lock",
        "_over",
        "_policy",
        "_sign",
        "changes",
        "cleaning",
        "conn",
        "original",
        "ref",
        "role",
    )

    conn: Any
    cleaning: cleaning.Cleaning | None  # the clean-up, while its outcome is not known
    original: Original  # the connection object as it was when new
    changes: changes.Changes  # what was done to the session

    def __init__(self, conn: Any, policy: Policy, lost: Callable[[Any], None]) -> None:
        """`lost` is called by the interpreter when a borrower has dropped the connection."""
        self._policy = policy
        self.conn = conn
        self.cleaning = None
        self._over = False
        super().__init__(conn.pgconn, policy.looks)
        # Not on a proxy of an agent's: cursors know only what is behind it.
        behind = foreign.behind(conn)
        sign = cpython.sign_of_life()
        if sign is not None:
            vars(behind)[SIGN] = sign
        self._sign = weakref.ref(behind if sign is None else sign, lost)
        self.ref: weakref.ref[Any] | None = weakref.ref(behind)
        # Kept here, for `ref` may be dead although the connection lives.
        self._lock = getattr(behind, "lock", None)  # while a statement is under way
        self.changes = changes.of(conn) or changes.Changes(policy.judge)
        self.original = Original(conn, self.changes.listens)
        self.role = roles.Role(self.pgconn)

    # -- Lending --------------------------------------------------------------------------

    @property
    def is_lent(self) -> bool:
        return self.conn is None and not self._over

    def reachable(self) -> Any:
        """The connection, if it is here or a borrower still has it.

        Else None, and so of one that the garbage collector has found once, and that was used on.
        """
        return self.conn or (self.ref() if self.ref is not None else None)

    @property
    def is_gone(self) -> bool:
        """Whether nobody has what was lent, nor can come by it any more."""
        return self.conn is None and self._sign() is None

    def rest(self) -> None:
        """The loan is over, and the session as it was."""
        known, original = self.changes, self.original
        known.loan += 1  # cursors of this loan are stale
        known.last, known.called, known.deferred = None, False, ()
        if known.dirt or original.touch.touched or original.touch.switched:
            known.forget()
            original.loan_begins()

    def adopt(self, conn: Any) -> None:
        """What this connection is like now, in its present loan, belongs to it from its birth."""
        self.original = self.original.again(conn, self.changes.listens)

    # -- Does it live? --------------------------------------------------------------------

    def answers(self, patience: float = liveness.PING_TIMEOUT) -> bool:
        """Whether the server answers within so many seconds, and is what it was."""
        return liveness.ping(self.pgconn, patience) and not roles.has_turned(self.role, self.pgconn)

    def check(self) -> None:
        """Have the user's own check look at it. Raises what that raises."""
        self._policy.check(self.conn)
        if not rest.leave_transaction(self.conn):
            raise OperationalError("the check has left the connection unusable")

    # -- Is it as it was? -----------------------------------------------------------------

    def dirt(self) -> int:
        """What its borrower may have left in the session, as far as can be told from outside."""
        known = self.changes
        if known.called and reported(self.pgconn) != self.original.reported:
            return known.dirt | _REPORTED | RENAMED
        return known.dirt

    def comes_back_fit(self, conn: Any) -> bool:
        """End a loan, if others may get the session as it is; else do nothing.

        Every loan's end comes by here, so this calls nothing that it can do itself.
        """
        pgconn, policy = self.pgconn, self._policy
        if (
            pgconn.transaction_status  # IDLE is 0
            or pgconn.pipeline_status
            or policy.cleans_each
            or policy.trust.lost
        ):
            return False
        known, touch = self.changes, self.original.touch
        if known.dirt or known.called or touch.touched or touch.switched:
            if policy.restores and (
                known.dirt
                or touch.switched
                or (touch.touched and self.original.differs(conn))
                or (known.called and reported(pgconn) != self.original.reported)
            ):
                return False
            known.called = False
            known.forget()
            self.original.loan_begins()
        known.loan += 1  # as `rest`
        known.last, known.deferred = None, ()
        return True

    def can_stay(self) -> bool:
        """Whether it is as it was, of a session on offer. It calls nothing, as `comes_back_fit`."""
        known, policy, touch = self.changes, self._policy, self.original.touch
        return not (
            self.pgconn.transaction_status
            or known.dirt
            or known.called
            or touch.touched
            or touch.switched
            or policy.cleans_each
            or policy.trust.lost
        )

    def goes_on(self) -> bool:
        """End a loan of which that was so, and begin another; False when it has to be cleaned."""
        if self._policy.trust.lost:  # first: its last statement tells whether it is in doubt
            return False
        known = self.changes
        known.loan += 1  # as `rest`
        known.last, known.deferred = None, ()
        return True

    def is_clean(self, conn: Any) -> bool:
        """Whether it may be lent as it is. For under the lock, where nothing may be sent."""
        policy = self._policy
        try:
            return bool(
                self.cleaning is None
                and rest.is_idle(conn)
                and not self.dirt()
                and not self.original.differs(conn)
                # It is here as long as it was not lent, and again once it was made fit.
                and (self.conn is conn or not (policy.cleans_each or policy.trust.lost))
            )
        except Exception:  # what its borrower has set does not let itself be compared
            return False

    def takes_time(self) -> bool:
        """Whether `make_fit` would wait for the server, or call what is the user's."""
        return self._policy.reset is not None or (
            self.pgconn.transaction_status in rest.IN_TRANSACTION
        )

    def in_the_middle_of(self) -> str:
        """What it was left in the middle of: "a transaction", "a statement", or nothing."""
        status = self.pgconn.transaction_status
        if status in rest.IN_TRANSACTION:
            return "a transaction"
        in_pipeline = self.pgconn.pipeline_status and status != TransactionStatus.UNKNOWN
        return "a statement" if in_pipeline or status == TransactionStatus.ACTIVE else ""

    def last_statement(self) -> str:
        """The last one of this loan, for a message: without its values."""
        return self.changes.text_of_last()

    def transaction(self) -> str:
        """libpq's word for the state it is in, such as INTRANS."""
        return TransactionStatus(self.pgconn.transaction_status).name

    # -- Making it so ---------------------------------------------------------------------

    def make_fit(self, conn: Any) -> str:
        """End a loan, and have the session as it was; why not, when it must be closed.

        A changed session is cleaned: what does it is sent, and its outcome taken by `cleaned`.
        """
        if unfit := self._make_fit(conn):
            return unfit
        self.rest()
        return ""

    def _make_fit(self, conn: Any) -> str:
        policy = self._policy
        if not rest.is_idle(conn) and not rest.leave_transaction(conn):
            return UNUSABLE
        try:
            if policy.restores:
                # Notifications gather on the object of whoever listens, without touching it.
                touch = self.original.touch
                if touch.touched or touch.switched or self.changes.dirt & CHANNELS:
                    self.original.restore(conn)
                return "" if tidying.clean(self, conn, policy) else UNCLEAN
            if policy.reset is not None:
                policy.reset(conn)
                if conn.pgconn.transaction_status != rest.IDLE:
                    raise OperationalError(
                        f"the reset callback {named(policy.reset)} left a transaction open"
                    )
        except Exception as error:
            text = "%s: cleaning a session failed, closing it: %s"
            extra = {"pool": policy.name, "reason": UNCLEAN}
            logger.warning(text, policy.name, one_line(error), extra=extra)
            return UNCLEAN
        return ""

    def cleaned(self, patience: float = 0.0) -> bool | None:
        """Take the outcome of the clean-up, a proof of life; None when it takes longer."""
        cleaning = self.cleaning
        if cleaning is None:
            return True
        outcome = cleaning.outcome(patience)
        if not outcome:
            if cleaning.is_unknown:
                self._policy.may_lack = True
                self._policy.trust.answered(cleaning)  # it may have been the question
            return outcome
        if self._policy.trust.lost:
            self._policy.trust.answered(cleaning)
        self.cleaning = None
        if cleaning.undoes & _REPORTED == _REPORTED and self.original.reported:
            # (A driver of another kind does not tell.) Else a setting that changed with the
            # server's configuration would have every loan cleaned from then on.
            self.original.reported = reported(self.pgconn)
        return not cleaning.is_last_use

    def is_ready(self) -> bool:
        """Whether it can be lent without waiting for its clean-up."""
        return self.cleaning is None or self.cleaning.outcome() is not None

    # -- Its end --------------------------------------------------------------------------

    @property
    def is_broken(self) -> bool:
        """Whether it was lost, and not closed by its borrower."""
        return self.pgconn.transaction_status == TransactionStatus.UNKNOWN and bool(
            getattr(self.reachable(), "broken", False)
        )

    def _end_it(self) -> None:
        self._over, self.cleaning = True, None

    def say_goodbye(self) -> Interrupt | None:
        """Close it; return how to interrupt what its backend is busy with, for `await_end`."""
        self._end_it()
        return say_goodbye(self.conn, self.pgconn, None if self.is_gone else self._lock)

    def say_goodbye_for_borrower(self) -> None:
        """Close it in another thread's stead, which will not come to do it; unless it is busy."""
        conn = self.ref() if self.ref is not None else None
        if conn is not None and not conn.lock.locked():
            say_goodbye(conn, self.pgconn, self._lock)

    def await_end(self, seconds: float, interrupt: Interrupt | None = None) -> bool:
        """Wait, at most so long, until the server has let go of it."""
        return await_end(self._end, seconds, interrupt)

    def bury(self, grave: Any) -> None:
        """In a forked child: make it harmless without a byte to the server."""
        self._end_it()
        self.ref = None
        bury(self.pgconn, grave)

    # -- A server that has changed --------------------------------------------------------

    def after_refused_write(self) -> tuple[bool, bool]:
        """What to think of a write that failed because of a read-only transaction.

        Return whether this connection is to be replaced, and whether every other of its time is.
        """
        return roles.after_refused_write(self.role, self.pgconn, self.changes.dirt)

    def in_use(self) -> bool:
        """Whether a thread is in the middle of a statement on this connection."""
        return self._lock is not None and bool(self._lock.locked())
