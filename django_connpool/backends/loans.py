"""What wrappers see of a loan: the one file of theirs that knows where a pool keeps it.

Each function takes the connection that is on loan.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from django_connpool.pool.slot import BURST as BURST
from django_connpool.pool.slot import RECALLED as RECALLED
from django_connpool.session.objects import reported

# Where no call of Python's is to be paid for, these are C's.
epoch = attrgetter("_slot.session.loan")  # which loan of the connection it is: a number
since = attrgetter("_slot.since")  # when it was lent, in monotonic seconds
dirt = attrgetter("_slot.session.watch.dirt")  # what its statements may have done
of = attrgetter("_slot")  # what has `pinned`, to be set where nothing may be called; see `pin`


def identity(connection: Any) -> tuple[Any, float] | None:
    """What is equal for the same loan of the same pool only; None if it is on loan from none."""
    slot = getattr(connection, "_slot", None)
    return None if slot is None else (slot, slot.since)


def all_dirt(connection: Any) -> int:
    """As `dirt`, and what the server says that functions have done to its settings."""
    return int(of(connection).session.dirt())


def settings_were_called(connection: Any) -> bool:
    """Whether a function has changed a setting of those that the server tells of.

    If not, it is not asked again before the next statement that may call one.
    """
    session = of(connection).session
    if not session.watch.called:
        return False
    if reported(connection.pgconn) != session.birth.reported:
        return True
    session.watch.called = False
    return False


def is_changed(connection: Any, *but: str) -> bool:
    """Whether the connection object is not as it was when it was new, but for some attributes."""
    birth = of(connection).session.birth
    return bool(birth.touch.touched and birth.differs(connection, *but))


def is_alive(connection: Any) -> bool:
    return bool(of(connection).session.is_alive())


def pin(connection: Any, why: str | None) -> None:
    """Note for the status why the loan lasts longer than a transaction."""
    slot = getattr(connection, "_slot", None)
    if slot is not None:
        slot.pinned = why
