"""Whether a pool can serve: busy, stuck, down, or well. From what it says of itself alone.

* busy: somebody has waited longer than `CONNPOOL_BUSY_AFTER` seconds (5), and waits still.
* stuck: every connection that the pool may have is on loan, in use, and has been for longer than
  `CONNPOOL_STUCK_AFTER` seconds (60): nothing moves. So is a pool in which somebody
  has waited for a second for a place of a bound that is full, when all that it has are on loan for
  so long.
* down: the last attempt to connect has failed, and the outage is older than `outage_patience`, for
  which borrowers wait in line; or time does not heal what the server said. A server that is only
  full is no reason while the pool has connections to serve with. It is believed for
  `CONNPOOL_DOWN_FOR` seconds (30) after that attempt: whoever sends no requests to a process that
  is down would else never have it try again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_connpool import registry
from django_connpool.pool.outage import FULL, UNFIT
from django_connpool.status.document import Outage, Pool
from django_connpool.status.snapshot import glance
from django_connpool.status.text import duration, plural

BUSY = "busy"
STUCK = "stuck"
DOWN = "down"
STARVED_AFTER = 1.0  # seconds: what is idle elsewhere comes sooner


@dataclass(frozen=True)
class Limits:
    """From when on a pool is in trouble, in seconds."""

    busy_after: float = 5.0
    stuck_after: float = 60.0
    down_for: float = 30.0

    @classmethod
    def from_settings(cls) -> Limits:
        """As the settings have them. Raises ImproperlyConfigured for what is no number."""
        return cls(
            _seconds("CONNPOOL_BUSY_AFTER", cls.busy_after),
            _seconds("CONNPOOL_STUCK_AFTER", cls.stuck_after),
            _seconds("CONNPOOL_DOWN_FOR", cls.down_for),
        )


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a pool: one of the three words, and a sentence for anybody to read.

    It holds nothing that the server said, which may name hosts and users.
    """

    kind: str
    pool: str
    text: str

    def __str__(self) -> str:
        return f"{self.pool}: {self.kind}: {self.text}"


def judge(pool: Pool, limits: Limits) -> Trouble | None:
    """What is wrong with a pool, the worst of it; None when it can serve."""
    text = ""
    if not pool["closed"]:
        for kind, find in ((DOWN, _down), (STUCK, _stuck), (BUSY, _busy)):
            if text := find(pool, limits):
                return Trouble(kind, pool["alias"], text)
    return None


def troubles(pools: Iterable[Pool], limits: Limits | None = None) -> list[Trouble]:
    """What is wrong with each pool that cannot serve."""
    limits = limits or Limits.from_settings()
    found = (judge(pool, limits) for pool in pools)
    return [trouble for trouble in found if trouble is not None]


def here(aliases: Iterable[str] = ()) -> list[Trouble]:
    """What is wrong in this process, with the pools of these aliases (or with all).

    Makes no pool, and opens no connection.
    """
    wanted = set(aliases)
    return troubles(
        glance(names, pool)
        for names, pool in registry.live()
        if not wanted or wanted.intersection(names)
    )


def _down(pool: Pool, limits: Limits) -> str:
    if pool.get("last_error") is None:
        return ""
    outage = pool.get("outage")
    if outage is None:  # of an earlier version
        return "connecting has failed"
    if outage["young"] or outage["failed"] > limits.down_for:
        return ""
    if outage["kind"] in (FULL, UNFIT) and pool["size"] > pool["opening"]:
        return ""
    return in_words(outage)


def _stuck(pool: Pool, limits: Limits) -> str:
    used = [loan for loan in pool["loans"] if not loan.get("offered")]
    is_starved = pool["waiting"] and pool["longest_wait"] > min(limits.busy_after, STARVED_AFTER)
    no_place = _no_place(pool) if is_starved else ""
    if not used or (len(used) < pool["max_size"] and not no_place):
        return ""
    held = min(loan["held"] for loan in used)
    if held <= limits.stuck_after:
        return ""
    each = "the one connection has" if len(used) == 1 else f"all {len(used)} connections have"
    return f"{each} been on loan for more than {duration(held)}{no_place}"


def _busy(pool: Pool, limits: Limits) -> str:
    waited = pool["longest_wait"]
    if not pool["waiting"] or waited <= limits.busy_after:
        return ""
    others = f", and {pool['waiting'] - 1} more wait" if pool["waiting"] > 1 else ""
    state = ", the pool is suspended" if pool["suspended"] else ""
    return (
        f"somebody has waited {duration(waited)} for a connection{others}; "
        f"{pool['in_use']} of {pool['max_size']} are in use{state}{_no_place(pool)}"
    )


def _no_place(pool: Pool) -> str:
    """Which bound keeps whoever waits from a new connection, if one does."""
    if pool["size"] >= pool["max_size"]:
        return ""
    for one in pool.get("bounds") or []:
        held = one["held"] + sum(other["held"] for other in one["others"])
        if one["kept"] and one["waits"] and held >= one["most"] - one["reserve"]:
            return f", and {one['name']} ({one['most']}) has no place for another"
    return ""


def in_words(outage: Outage) -> str:
    """An outage in plain words, without what the server said."""
    return (
        f"connecting has failed for {duration(outage['since'])} "
        f"({plural(outage['attempts'], 'attempt')}, the last {duration(outage['failed'])} ago)"
    )


def _seconds(name: str, default: float) -> float:
    value = getattr(settings, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ImproperlyConfigured(f"{name} has to be a number of seconds, not {value!r}")
    return float(value)
