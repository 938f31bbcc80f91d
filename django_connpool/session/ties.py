"""What keeps a session from going to somebody else: nothing, when it is *at rest*.

At rest is a session in no transaction, in autocommit mode, with no state of its borrower's and no
open cursor. The wrapper asks here before it offers a session, or gives it back, between statements.
"""

from __future__ import annotations

from typing import Any

from psycopg.pq import TransactionStatus

from .objects import reported
from .private import AUTOCOMMIT
from .statements import DIRT, HELD, RENAMED, SEQUENCES, kinds

# What no borrower can see of another is no reason to keep a session. What it remembers of sequences
# is forgotten before the next borrower asks, and every INSERT with a serial key would be a reason.
# What psycopg has prepared, it prepares again.
_GIVEN = DIRT & ~(SEQUENCES | RENAMED | HELD)
_GIVEN_OR_HELD = _GIVEN | HELD

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_DEAD = TransactionStatus.UNKNOWN
_QUIET = (TransactionStatus.IDLE, _DEAD)


def is_at_rest(session: Any, conn: Any, autocommit: bool = True) -> bool:
    """Whether it lives and nothing keeps it; as `ties`, where it is asked after each statement.

    If so, no function that has run so far is a reason to compare its settings again.
    """
    pgconn, known, touch = conn.pgconn, session.changes, session.original.touch
    if (
        pgconn.transaction_status
        or pgconn.pipeline_status
        or known.dirt & _GIVEN_OR_HELD
        or known.called
        or touch.touched
        or touch.switched
        or not autocommit
        or conn.lock.locked()
    ):
        if known.dirt & _GIVEN_OR_HELD and not pgconn.transaction_status:
            return False  # and `ties`, which costs more, has a word for it
        if pgconn.transaction_status == _DEAD or ties(session, conn, autocommit):
            return False
        known.called = False
        if autocommit:  # as it was when it was new, so that it need not be compared again
            session.original.loan_begins()
    return True


def ties(session: Any, conn: Any, autocommit: bool = True) -> list[str]:
    """What keeps it, in words; empty when it is at rest. `conn`: its connection object.

    `autocommit`: in which mode it may go; another than the settings ask for was set by hand.
    """
    if conn.pgconn.transaction_status == _DEAD:
        # What it was given has died with it. But who may have been in a transaction has to be told.
        return [] if conn.autocommit else ["in a transaction"]
    found = under_way(session, conn, autocommit)
    known, original = session.changes, session.original
    if known.dirt & _GIVEN:
        found += [kind for kind in given(session) if kind not in found]
    if known.called and reported(conn.pgconn) != original.reported:
        found.append("settings")  # set by a function; the server tells of some
    if original.touch.touched and _is_changed(original, conn):
        found.append("the connection object was changed")
    return found


def under_way(session: Any, conn: Any, autocommit: bool = True) -> list[str]:
    """Only what somebody is in the middle of, whatever he has given to the session."""
    found = []
    pgconn = conn.pgconn
    status = pgconn.transaction_status
    if status in _OPEN:
        found.append("in a transaction")
    # What is adapted for a statement, or collected meanwhile, may come by in the middle of one.
    elif status not in _QUIET or pgconn.pipeline_status or conn.lock.locked():
        found.append("in use")
    if conn.autocommit != autocommit:
        found.append("autocommit was switched")
    if session.changes.dirt & HELD:
        found.append("cursors")
    return found


def given(session: Any) -> list[str]:
    """The kinds of state that its borrower's statements have left, by their text."""
    return kinds(session.changes.dirt & _GIVEN)


def _is_changed(original: Any, conn: Any) -> bool:
    try:
        return bool(original.differs(conn, AUTOCOMMIT))
    except Exception:  # what its borrower has set does not let itself be compared
        return True
