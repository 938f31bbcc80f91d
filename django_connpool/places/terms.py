"""A bound as somebody has asked for it, and which of its places are for which work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from . import folder
from .ledger import Ledger
from .table import Seat, Table

# What a pool works for.
USUAL, PRIORITY, BACKGROUND = "", "priority", "background"
ROLES = {"admin": PRIORITY, "background": BACKGROUND}  # as users call them

Hold: TypeAlias = Ledger | Seat


@dataclass(frozen=True)
class Bound:
    """So many places, for all pools of the process, or of the host where there is a `path`."""

    name: str  # for people
    most: int
    reserve: int = 0  # of these, such that only priority work may take
    background: int | None = None  # most that background work may take
    table: Table | None = None
    path: Path | None = None

    @property
    def is_of_host(self) -> bool:
        return self.path is not None

    def join(self, name: str, ring: Callable[[], None], now: float) -> Hold:
        """Become a member. Raises Unusable."""
        if self.path is not None:
            folder.prepare(self.path.parent)
            return Ledger(self.path, self.most, name, now)
        assert self.table is not None
        return Seat(self.table, self.most, name, ring)

    def places(self, role: str, most: int) -> Sequence[int]:
        """Those of `most` places that such work may take, in the order to try them.

        The reserved ones are the last, those of background work the first.
        """
        usual = max(1, most - self.reserve)
        if role == PRIORITY:
            return range(most - 1, -1, -1)
        if role == BACKGROUND and self.background is not None:
            return range(max(1, min(usual, self.background)))
        return range(usual - 1, -1, -1)
