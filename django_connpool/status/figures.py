"""The numbers of one pool, or of several added together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from django_connpool.status.document import Pool


@dataclass(frozen=True)
class Figures:
    """The numbers of one pool, or of several together; `longest_wait` is in seconds."""

    size: int = 0
    max_size: int = 0
    in_use: int = 0
    offered: int = 0
    idle: int = 0
    waiting: int = 0
    longest_wait: float = 0.0
    borrows: int = 0
    timeouts: int = 0
    opened: int = 0
    lost: int = 0

    @classmethod
    def of(cls, pool: Pool) -> Figures:
        stats = pool["stats"]
        return cls(
            size=pool["size"],
            max_size=pool["max_size"],
            in_use=pool["in_use"],
            offered=pool.get("offered", 0),
            idle=pool["idle"],
            waiting=pool["waiting"],
            longest_wait=pool["longest_wait"],
            borrows=stats.get("requests_num", 0),
            timeouts=stats.get("requests_timeouts", 0),
            # connections_num counts attempts, as in psycopg_pool.
            opened=stats.get("connections_num", 0) - stats.get("connections_errors", 0),
            lost=stats.get("connections_lost", 0),
        )

    @classmethod
    def total(cls, parts: Iterable[Figures]) -> Figures:
        """The sums, and the longest of the waits."""
        rows = list(parts)
        sums = {f.name: sum(getattr(row, f.name) for row in rows) for f in fields(cls)}
        sums["longest_wait"] = max((row.longest_wait for row in rows), default=0.0)
        return cls(**sums)
