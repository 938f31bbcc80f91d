"""All places of a pool, and where each of them stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .slot import CLOSING, GONE, IDLE, LOAN, ON_LOAN, OPENING, RETURNING, UNUSABLE, Slot

LOOKED_AT = 8  # idle connections, for one that is not being cleaned


class Slots:
    """The places taken. Everything here needs the pool's lock.

    A slot's `state` is the truth. The collections beside it are there to find slots by state
    without looking at all; an interrupt may leave them behind, and `audit` mends them.
    """

    __slots__ = ("all", "closing", "idle", "opening", "to_close")

    def __init__(self) -> None:
        self.all: set[Slot] = set()
        self.idle: list[Slot] = []  # last given back is last, and lent first
        self.opening: set[Slot] = set()
        self.closing: set[Slot] = set()
        self.to_close: deque[Slot] = deque()  # those of `closing` that no worker has taken up

    def __len__(self) -> int:
        return len(self.all)

    def on_loan(self) -> int:
        return len(self.all) - len(self.idle) - len(self.opening) - len(self.closing)

    def in_use(self) -> int:
        """How many are on loan to a borrower who has not offered it to others."""
        return self.on_loan() - sum(slot.is_offered for slot in self.all)

    def staying(self) -> int:
        """How many there are but for those on the way out."""
        return len(self.all) - len(self.closing)

    def open_ones(self) -> int:
        return len(self.all) - len(self.opening) - len(self.closing)

    # -- Changes of state -----------------------------------------------------------------

    def prefer_ready(self) -> Slot:
        """Have one that is clean already be the last of the idle ones; return the last."""
        idle = self.idle
        if len(idle) > 1:
            for place in range(len(idle) - 1, max(-1, len(idle) - 1 - LOOKED_AT), -1):
                slot = idle[place]
                if slot.state is IDLE and slot.session.is_ready():
                    idle[place], idle[-1] = idle[-1], slot
                    break
        return idle[-1]

    def begin_opening(self, slot: Slot) -> None:
        self.all.add(slot)
        self.opening.add(slot)

    def has_opened(self, slot: Slot) -> None:
        """There is a session in it now, at nobody's disposal yet."""
        slot.job = None
        slot.state = RETURNING
        self.opening.discard(slot)

    def retire(self, slot: Slot, reason: str) -> None:
        """On the way out: it is nobody's any more."""
        if slot.state is GONE:
            return
        if slot.state is not CLOSING:
            slot.reason = reason
            slot.job = None
            slot.state = CLOSING
        if slot not in self.closing:
            if slot not in self.to_close:  # an interrupt may have struck between the two
                self.to_close.append(slot)
            self.closing.add(slot)

    def retire_all(self, reason: str) -> None:
        """Every idle one."""
        while self.idle:
            self.retire(self.idle[-1], reason)
            del self.idle[-1]

    def forget(self, slot: Slot) -> None:
        """The place is free, and this object of no more use."""
        slot.state = GONE
        if slot.has_session:
            slot.session.conn = None
        for where in (self.opening, self.closing, self.all):  # last that by which it is found
            where.discard(slot)
        slot.waiter = slot.loans = slot.offer = None

    def lent(self) -> list[Slot]:
        """Those in a borrower's hand, and not about to be."""
        return [one for one in self.all if one.state is LOAN and one.session.conn is None]

    # -- After an interrupt ---------------------------------------------------------------

    def audit(self) -> Iterator[Slot]:
        """Have every slot stand where its state says; yield those that are to be ended.

        A state is half done if it is no state of rest, and nobody is at it. The next of those
        that are yielded is asked for when the one before is at rest.
        """
        if any(slot.state is not IDLE for slot in self.idle):
            self.idle[:] = [slot for slot in self.idle if slot.state is IDLE]
        for slot in list(self.all):
            state = slot.state
            if state is LOAN or state is IDLE:
                continue
            if state is CLOSING:
                self.opening.discard(slot)
                self.closing.add(slot)
                if slot.is_nobodys and slot not in self.to_close:
                    self.to_close.append(slot)
            elif state is OPENING:
                self.opening.add(slot)
                if slot.is_nobodys and slot.has_session:
                    self.opening.discard(slot)
                    self.retire(slot, UNUSABLE)
                elif slot.is_nobodys:
                    yield slot
            elif state is GONE:
                self.forget(slot)
            elif state in ON_LOAN and slot.is_nobodys:
                self.opening.discard(slot)
                yield slot
