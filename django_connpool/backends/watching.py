"""What work does with its connections, for who looks on: the panel of contrib/toolbar.py.

Until `install` is called nothing of this is there. Nobody here refers to a connection: it is
counted what does.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from functools import wraps
from time import monotonic
from typing import Any

from django_connpool import scopes
from django_connpool.process import userline

from . import loans
from .holding import Holding
from .offering import Offering

# What the present work is seen to do; None while nobody looks on. It follows the work into the
# threads in which async code has its queries done.
seen: ContextVar[list[Seen] | None] = ContextVar("django_connpool_seen", default=None)


class Seen:
    """One loan."""

    def __init__(self, wrapper: Holding, connection: Any) -> None:
        slot = loans.of(connection)
        waited = slot.waited
        self.alias: str = wrapper.alias
        self.is_new: bool = connection.connpool_is_new  # opened for it
        self.waited: float = waited[1] if waited and waited[0] == slot.loan else 0.0
        self.at = userline.text(userline.of_stack(inspect.currentframe(), scopes.current.get()))
        self.backend_pid: int = slot.session.backend_pid
        self.since = monotonic()
        self.reasons: list[tuple[str, str]] = []  # why it stayed, and after which statement
        self._slot = slot
        self._loan: int = slot.loan
        self._until: float | None = None  # given back
        self._offered: float | None = None  # since when others may have it

    def is_of(self, slot: Any) -> bool:
        return self._slot is slot and self._loan == slot.loan and self._until is None

    def kept(self, why: str) -> None:
        """It stays after a statement: note why, when that was not so after the one before."""
        if self._offered is not None or not self.reasons or self.reasons[-1][0] != why:
            self.reasons.append((why, self._slot.session.last_statement()))
        self._offered = None

    def offered(self) -> None:
        self._offered = monotonic()

    def given_back(self) -> None:
        self._until = monotonic()

    @property
    def ended(self) -> str:
        """How, in words."""
        if self._until is not None:
            return "given back"
        if self._loan != self._slot.loan:
            return "taken by who waited"
        return "not before the response"

    def held(self) -> float:
        """For how many seconds it was on loan, or has been by now."""
        until = self._until
        if until is None and self._loan != self._slot.loan:
            until = self._offered  # the last that is known of it
        return (monotonic() if until is None else until) - self.since


_is_installed = False


def install() -> None:
    """From now on wrappers tell of their loans, while somebody looks on."""
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    take, hand_back, release = Holding._take, Holding._hand_back, Offering.release_if_free
    go_on = Offering._go_on_with_parked

    @wraps(take)
    def taken(self: Holding, binding: Any, connection: Any) -> None:
        here = seen.get()
        if here is not None:
            here.append(Seen(self, connection))
        take(self, binding, connection)

    @wraps(go_on)
    def gone_on(self: Offering) -> bool:
        goes_on = go_on(self)
        here = seen.get()
        if goes_on and here is not None:
            here.append(Seen(self, self.in_hand))
        return goes_on

    @wraps(hand_back)
    def given_back(self: Holding, connection: Any) -> None:
        if (loan := _find(loans.of(connection))) is not None:
            loan.given_back()
        hand_back(self, connection)

    @wraps(release)
    def released(self: Offering) -> None:
        loan = None
        if self.in_hand is not None and self.is_lent:
            loan = _find(loans.of(self.in_hand))
        release(self)
        if loan is None:
            return
        if self.in_hand is None:
            loan.offered()
        elif self.in_atomic_block:
            loan.kept("in a transaction")
        else:
            loan.kept(loans.of(self.in_hand).pinned or "kept by who uses it")

    Holding._take = taken  # type: ignore[method-assign]
    Holding._hand_back = given_back  # type: ignore[method-assign]
    Offering._go_on_with_parked = gone_on  # type: ignore[method-assign]
    Offering.release_if_free = released  # type: ignore[method-assign]


def _find(slot: Any) -> Seen | None:
    """The loan in that place, if somebody looks on."""
    for loan in reversed(seen.get() or ()):
        if loan.is_of(slot):
            return loan
    return None
