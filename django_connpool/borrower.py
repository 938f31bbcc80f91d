"""What the registry needs of a database wrapper that borrows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Borrower(Protocol):
    alias: str
    role: str  # of its work, where that has a pool of its own; see places/terms.py
    settings_dict: dict[str, Any]
    foreign_at_first: Mapping[str, Any]  # settings of other packages, when the wrapper was made
    bound_settings: Mapping[str, Any] | None  # as they were when it was bound to its pool
    is_missed: bool  # when it is collected, the registry looks which pools are still wanted

    @property
    def timezone_name(self) -> str: ...

    def opener(self, settings_dict: Mapping[str, Any], options: Any) -> Any:
        """What opens the physical connections of a pool made for this wrapper."""
