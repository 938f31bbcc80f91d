"""Whether a pool is well, in one word and its reason, from a snapshot of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_connpool.status.text import duration, plural

WELL = "well"
BUSY = "busy"  # somebody waits, and has waited long
STUCK = "stuck"  # nothing comes back that anybody could wait for
DOWN = "down"  # the last attempt to connect failed
WORDS = (WELL, BUSY, STUCK, DOWN)  # each is worse than those before it

BUSY_AFTER = 1.0  # seconds
STUCK_AFTER = 60.0  # seconds


def verdict(
    pool: Mapping[str, Any], busy_after: float = BUSY_AFTER, stuck_after: float = STUCK_AFTER
) -> tuple[str, str]:
    """One of WORDS, the worst that is true, and why.

    `pool` is `ConnectionPool.snapshot()`, here or as another process has sent it.
    """
    if pool["closed"]:
        return DOWN, "the pool is closed"
    if error := pool.get("last_error"):
        return DOWN, f"the last attempt to connect failed: {' '.join(error.split())}"
    loans, waiting, longest = pool["loans"], pool["waiting"], pool["longest_wait"]
    # What is offered goes to whoever needs it, and a free place to who is next in line.
    held = [loan["held"] for loan in loans if not loan.get("offered")]
    if held and len(held) >= pool["max_size"] and min(held) > stuck_after:
        every = "its only connection has" if len(held) == 1 else f"all {len(held)} connections have"
        return STUCK, f"{every} been on loan for more than {duration(min(held))}"
    line = f"{plural(waiting, 'borrower')} in line, the first for {duration(longest)}"
    if pool["suspended"]:
        return BUSY, f"lending is suspended until it is resumed{f'; {line}' if waiting else ''}"
    if waiting and longest > busy_after:
        return BUSY, line
    return WELL, line if waiting else "nobody waits"


def is_as_bad_as(word: str, least: str) -> bool:
    """Whether a verdict is that one, or a worse one."""
    return WORDS.index(word) >= WORDS.index(least)
