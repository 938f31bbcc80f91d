"""Having a session cleaned: what is sent for it, and what is asked along with that.

What cleans is cleaning.py's to know, what is to be asked trust.py's, and what not to clean, because
it is a stranger's, pooler.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import OperationalError

from . import cleaning, pooler
from .objects import reported_by_name
from .statements import ANYTHING

if TYPE_CHECKING:
    from .policy import Policy


def clean(session: Any, conn: Any, policy: Policy) -> bool:
    """Send what undoes the changes; False where that is not possible."""
    trust = policy.trust
    doubtful = trust.lost and trust.ends(session)
    dirt = session.dirt() | (ANYTHING if policy.cleans_each or doubtful else 0)
    question = trust.question(session) if trust.lost else b""
    setup = session.changes.setup
    if policy.judge.shared:  # only what is its own; the rest is a stranger's by now
        setup = pooler.restoring(session.pgconn, reported_by_name(session.original.reported))
        dirt, doubtful = (pooler.TRACKED if setup else 0), True
    if policy.lacking and session.dirt() & cleaning.kinds_of(policy.lacking):
        return False  # it may be there after all
    if not dirt and not question:
        return True
    if not doubtful:
        session.changes.decide()
    last_use = bool(question) and not cleaning.is_possible(dirt, setup)
    if last_use:
        session.cleaning = cleaning.begin(conn, 0, [], question)
    else:
        lacking = policy.lacking or frozenset()
        session.cleaning = cleaning.begin(conn, dirt, setup, question, lacking)
    if session.cleaning is None:
        return False
    if question:
        session.cleaning.is_last_use = last_use
        trust.asked(session, session.cleaning)
    return True


def clean_anew(session: Any, policy: Policy) -> None:
    """As it is new, but somebody has tried out on it what cleans: begin to clean it."""
    setup, lacking = session.changes.setup, policy.lacking or frozenset()
    session.cleaning = cleaning.begin(session.conn, ANYTHING, setup, lacking=lacking)
    _require(session)


def ask(session: Any, policy: Policy) -> None:
    """As it is new: ask the server for the functions that change a session, if need be."""
    if question := policy.trust.question(session):
        session.cleaning = cleaning.begin(session.conn, 0, [], question)
        _require(session)
        policy.trust.asked(session, session.cleaning)


def _require(session: Any) -> None:
    if session.cleaning is None:
        raise OperationalError("the connection was lost as it was opened")
