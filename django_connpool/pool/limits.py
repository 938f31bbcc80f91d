"""The sizes and times of a pool, and which of them make sense."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass
class Limits:
    """What bounds a pool; times are seconds. What each means stands at ConnectionPool.

    Raises ValueError for what makes no sense.
    """

    min_size: int
    max_size: int
    timeout: float
    max_waiting: int
    max_lifetime: float
    max_idle: float
    max_uses: int
    max_connecting: int
    reconnect_timeout: float
    outage_patience: float
    num_workers: int
    jitter: float
    leak_after: float
    command_timeout: float | None
    ping_after: float  # of idleness, after which a connection is looked at closer
    locked_after: float
    asks_each: bool  # before each loan, however fresh a connection is
    has_check: bool  # the user's own
    has_reset: bool  # the same
    strict: bool
    has_offers: bool  # borrowers let others take what they do not use; see offers.py
    # What comes back beyond these is closed: `max_size`, or one less than there are, while another
    # pool needs one that this one uses; see sharing.py.
    most: int = field(init=False)

    def __post_init__(self) -> None:
        # Whether there is nothing to do between two loans of a connection: see parking.py.
        self.parks = not (self.max_uses or self.asks_each or self.has_reset)
        self.times_loans = bool(self.leak_after or self.command_timeout)
        self.check_sizes(self.min_size, self.max_size)
        self.most = self.max_size
        for name in (
            *("max_waiting", "max_uses", "leak_after", "reconnect_timeout", "outage_patience"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative, not {getattr(self, name)}")
        for name in ("max_lifetime", "max_idle"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0 seconds, not {getattr(self, name)}")
        for name in ("max_connecting", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a share between 0 and 1, not {self.jitter}")

    def change(self, name: str, value: Any) -> None:
        """Set one of them. Raises ValueError for what makes no sense."""
        changed = replace(self, **{name: value})
        setattr(self, name, value)
        self.parks, self.times_loans = changed.parks, changed.times_loans

    @staticmethod
    def check_sizes(min_size: int, max_size: int) -> None:
        """Raises ValueError for sizes that make no pool."""
        if min_size < 0:
            raise ValueError(f"min_size cannot be negative, not {min_size}")
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {max_size}")
        if max_size < min_size:
            text = f"max_size ({max_size}) must not be smaller than min_size ({min_size})"
            raise ValueError(text)
