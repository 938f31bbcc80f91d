"""What wrappers see of a loan: the one file of theirs that knows where a pool keeps it.

Each function takes the connection that is on loan.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from django_connpool.pool.offers import GIVEN_BACK as GIVEN_BACK
from django_connpool.pool.offers import SETTLED as SETTLED
from django_connpool.pool.offers import Leaving as Leaving
from django_connpool.pool.offers import Offer as Offer
from django_connpool.pool.offers import takes_time as takes_time
from django_connpool.pool.parking import SOON as SOON
from django_connpool.session import ties as session_ties

# Where no call of Python's is to be paid for, these are C's.
epoch = attrgetter("_slot.loan")  # which loan of the connection it is: a number
since = attrgetter("_slot.since")  # when it was lent, in monotonic seconds
waited = attrgetter("_slot.waited")  # for it, of which nobody has told yet
of = attrgetter("_slot")  # the place it has in its pool
dirt = attrgetter("_slot.session.changes.dirt")  # what its statements may have left, as bits
original = attrgetter("_slot.session.original")  # what its session was like when it was new
line = attrgetter("_pool._core.line")  # who waits for one of its pool; something false for nobody
served = attrgetter("_pool._core.served_at")  # when somebody in it last got what came back
# Given the session in that place, the connection, and in which mode of autocommit it may go:
is_at_rest = session_ties.is_at_rest


def ties(connection: Any, autocommit: bool = True) -> list[str]:
    """What keeps its session from that, in words."""
    return session_ties.ties(of(connection).session, connection, autocommit)


def under_way(connection: Any, autocommit: bool) -> list[str]:
    """Only what somebody is in the middle of, whatever he has given to the session."""
    return session_ties.under_way(of(connection).session, connection, autocommit)


def given(connection: Any) -> list[str]:
    """The kinds of state that statements have left in the session, by their text."""
    return session_ties.given(of(connection).session)


def is_of_its_loan(offer: Offer) -> bool:
    """Whether the loan of an offer goes on, whoever has taken what was on offer."""
    return offer.slot.offer is offer


def is_alive(connection: Any) -> bool:
    return bool(of(connection).session.is_alive())


def pin(connection: Any, why: str | None) -> None:
    """Note for the status why the loan lasts longer than a transaction."""
    slot = getattr(connection, "_slot", None)
    if slot is not None:
        slot.pinned = why
