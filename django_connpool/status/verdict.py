"""What poolstatus says of a pool, in one word and its reason: as `ready` judges, and for people."""

from __future__ import annotations

from math import inf

from django_connpool.status.document import Pool
from django_connpool.status.readiness import BUSY, DOWN, STUCK, Limits, judge
from django_connpool.status.text import duration, plural

WELL = "well"
WORDS = (WELL, BUSY, STUCK, DOWN)  # each is worse than those before it


def verdict(
    pool: Pool, busy_after: float = Limits.busy_after, stuck_after: float = Limits.stuck_after
) -> tuple[str, str]:
    """One of WORDS, the worst that is true, and why. The times are seconds.

    Unlike a probe this names what the server said, and remembers a failure however old it is.
    """
    if pool["closed"]:
        return DOWN, "the pool is closed"
    trouble = judge(pool, Limits(busy_after, stuck_after, down_for=inf))
    if trouble is not None and trouble.kind == DOWN:
        said = " ".join((pool.get("last_error") or "").split())
        return DOWN, f"{trouble.text}{said and f': {said}'}"
    if trouble is not None:
        return trouble.kind, trouble.text
    waiting, longest = pool["waiting"], pool["longest_wait"]
    line = f"{plural(waiting, 'borrower')} in line, the first for {duration(longest)}"
    if pool["suspended"]:
        return BUSY, f"lending is suspended until it is resumed{f'; {line}' if waiting else ''}"
    return WELL, line if waiting else "nobody waits"


def is_as_bad_as(word: str, least: str) -> bool:
    """Whether a verdict is that one, or a worse one."""
    return WORDS.index(word) >= WORDS.index(least)
