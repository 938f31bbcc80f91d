"""Which sizes and times a pool accepts."""

from __future__ import annotations

from typing import Any


def checked_sizes(min_size: int, max_size: int | None) -> tuple[int, int]:
    """Return both sizes, `max_size` filled in; ValueError for those that make no pool."""
    if max_size is None:
        max_size = min_size
    if min_size < 0:
        raise ValueError(f"min_size cannot be negative, not {min_size}")
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, not {max_size}")
    if max_size < min_size:
        raise ValueError(f"max_size ({max_size}) must not be smaller than min_size ({min_size})")
    return min_size, max_size


def checked_times(pool: Any) -> None:
    """ValueError for the first of a new pool's numbers that makes no sense."""
    for name in ("max_waiting", "max_uses", "leak_after", "reconnect_timeout", "outage_patience"):
        if getattr(pool, name) < 0:
            raise ValueError(f"{name} cannot be negative, not {getattr(pool, name)}")
    for name in ("max_lifetime", "max_idle"):
        if getattr(pool, name) <= 0:
            raise ValueError(f"{name} must be more than 0 seconds, not {getattr(pool, name)}")
    for name in ("max_connecting", "num_workers"):
        if getattr(pool, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(pool, name)}")
    if not 0 <= pool.jitter <= 1:
        raise ValueError(f"jitter is a share between 0 and 1, not {pool.jitter}")
