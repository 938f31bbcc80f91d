"""What the registry and the ways of taking back need of a database wrapper that borrows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Borrower(Protocol):
    # For the registry, which finds the pool of its settings.

    alias: str
    settings_dict: dict[str, Any]
    foreign_at_first: Mapping[str, Any]  # settings of other packages, when the wrapper was made
    bound_settings: Mapping[str, Any] | None  # as they were when it was bound to its pool
    is_missed: bool  # when it is collected, the registry looks which pools are still wanted

    @property
    def timezone_name(self) -> str: ...

    def opener(self, settings_dict: Mapping[str, Any], options: Any) -> Any:
        """What opens the physical connections of a pool made for this wrapper."""

    # To take its connection back while its thread does not use it.
    connection: Any
    parked: Any
    parked_at: float
    is_between: bool
    in_atomic_block: bool
    run_on_commit: list[Any]
    kept: int
    by_hand: bool

    @property
    def is_pooled(self) -> bool: ...

    def borrow_again(self) -> Any:
        """Borrow in the middle of a step, after the connection it began with was recalled."""


class Releaser(Borrower, Protocol):
    # Where it may have given back early, between two statements.
    def end_burst(self) -> None:
        """Give back what was set aside, unless somebody has taken it."""

    def borrow_to_look(self) -> Any:
        """Borrow for who reads `connection` between two statements."""
