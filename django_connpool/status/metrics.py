"""Each metric of a pool: its name, what it means, and where it stands in the pool's numbers.

Names follow OpenTelemetry's `db.client.connection.*`, as Prometheus writes them, where it has one
for the thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

from django_connpool import registry, switchboard
from django_connpool.pool.slot import REASONS
from django_connpool.status import listeners

# Those of `ConnectionPool.numbers()`; a pool of a document has them too, and its loans.
Numbers: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Mapping[str, float]  # by the value of the metric's label

POOL_LABEL = "db_client_connection_pool_name"


@dataclass(frozen=True)
class Metric:
    """A gauge, or a counter, whose name gets the ending `_total`."""

    name: str
    meaning: str
    values: Callable[[Numbers], Values]
    label: str = ""  # the name of its one label; without one, the only value is that of ""


@dataclass(frozen=True)
class Distribution:
    """A histogram of seconds."""

    name: str
    meaning: str
    key: str  # in a pool's histograms


def _number(*path: str) -> Callable[[Numbers], Values]:
    """The number that stands there; 0 in what an earlier version says, which has none."""

    def values(pool: Numbers) -> Values:
        found: Any = pool
        for key in path[:-1]:
            found = found[key]
        return {"": found.get(path[-1], 0)}

    return values


def by_state(pool: Numbers) -> dict[str, int]:
    """How many connections are idle, and how many on loan, those on offer included."""
    return {"idle": pool["idle"], "used": pool["in_use"] + pool.get("offered", 0)}


def _changing(pool: Numbers) -> Values:
    return {"opening": pool["opening"], "closing": pool["closing"]}


def _listening(key: str) -> Callable[[Numbers], Values]:
    """That number of those who listen; nothing where nobody does."""

    def values(pool: Numbers) -> Values:
        found = pool.get("listening")
        return {} if found is None else {"": found[key]}

    return values


def _closed(pool: Numbers) -> Values:
    found = pool.get("closed_for", {})
    return {reason.replace(" ", "_"): found.get(reason, 0) for reason in REASONS}


def by_bound(pool: Numbers, key: str) -> dict[str, int]:
    """A number of each bound that the pool shares with others, by the bound's name."""
    return {bound["name"]: int(bound[key]) for bound in pool.get("bounds") or ()}


def _bound(key: str) -> Callable[[Numbers], Values]:
    return lambda pool: by_bound(pool, key)


GAUGES = (
    Metric(
        "db_client_connection_count",
        "Connections of the pool, by state: idle, or used by a borrower.",
        by_state,
        "state",
    ),
    Metric(
        "db_client_connection_max", "The most connections the pool may have.", _number("max_size")
    ),
    Metric(
        "db_client_connection_idle_min",
        "Connections the pool keeps open although nobody uses them.",
        _number("min_size"),
    ),
    Metric(
        "db_client_connection_idle_max",
        "The most connections of the pool that may be idle: as many as it may have.",
        _number("max_size"),
    ),
    Metric(
        "db_client_connection_pending_requests",
        "Borrowers that stand in line now.",
        _number("waiting"),
    ),
    Metric(
        "django_connpool_connections_offered",
        "Of those used, what nobody uses at the moment and whoever waits may take.",
        _number("offered"),
    ),
    Metric(
        "django_connpool_connections_changing",
        "Connections being opened, and being closed.",
        _changing,
        "state",
    ),
    Metric(
        "django_connpool_wait_longest_seconds",
        "For how long the first in line has waited.",
        _number("longest_wait"),
    ),
    Metric(
        "django_connpool_dead_holders",
        "Loans that are still out although the thread that borrowed has ended.",
        _number("dead_holders"),
    ),
    Metric(
        "django_connpool_listeners",
        "Who listens to the database by listen(), where anybody does.",
        _listening("listeners"),
    ),
    Metric(
        "django_connpool_listener_channels",
        "To how many channels they listen.",
        _listening("channels"),
    ),
    Metric(
        "django_connpool_listener_connections",
        "Connections on which they listen: 0 while there is none, and notifications are missed.",
        _listening("connected"),
    ),
    Metric(
        "django_connpool_listener_lost_seconds",
        "For how long the connection on which they listen has been lost; 0 while there is one.",
        _listening("lost"),
    ),
    Metric(
        "django_connpool_bound_max",
        "The most connections that all who share the bound may have.",
        _bound("most"),
        "bound",
    ),
    Metric(
        "django_connpool_bound_held",
        "Of these, the pool's.",
        _bound("held"),
        "bound",
    ),
    Metric(
        "django_connpool_bound_waiting",
        "Whether somebody in line waits for a place of a bound.",
        _bound("waits"),
        "bound",
    ),
)

COUNTERS = (
    Metric(
        "db_client_connection_timeouts",
        "Borrowers that waited as long as they may and got no connection.",
        _number("stats", "requests_timeouts"),
    ),
    Metric(
        "django_connpool_borrow_waited",
        "Borrowers that had to stand in line.",
        _number("stats", "requests_queued"),
    ),
    Metric(
        "django_connpool_borrow_failed",
        "Borrowers that got an error, those that timed out included.",
        _number("stats", "requests_errors"),
    ),
    Metric(
        "django_connpool_connection_errors",
        "Attempts to connect that failed.",
        _number("stats", "connections_errors"),
    ),
    Metric(
        "django_connpool_closed",
        "Connections closed, by the reason.",
        _closed,
        "reason",
    ),
    Metric(
        "django_connpool_cleaned",
        "Sessions that their borrower had changed, and the pool cleaned.",
        _number("stats", "sessions_cleaned"),
    ),
    Metric(
        "django_connpool_leaks",
        "Loans that were reported by leak_after, or whose borrower died with them.",
        _number("stats", "loans_leaked"),
    ),
)

HISTOGRAMS = (
    Distribution(
        "db_client_connection_wait_time_seconds",
        "Time that borrowers stood in line; 0 for those who did not have to.",
        "wait",
    ),
    Distribution(
        "db_client_connection_use_time_seconds",
        "Time from loan to return.",
        "hold",
    ),
    Distribution(
        "db_client_connection_create_time_seconds",
        "Time to open a connection.",
        "connect",
    ),
)


def buckets(pool: Numbers, key: str) -> tuple[list[tuple[str, float]], float]:
    """The buckets of a histogram as Prometheus counts, each with those below; and the sum.

    Who is served at once is not in the pool's own of waits, which costs such a borrow nothing.
    """
    found = pool["histograms"][key]
    counts = list(found["buckets"].values())
    if key == "wait":
        counts[0] += at_once(pool)
    return list(zip(found["buckets"], accumulate(counts), strict=True)), found["sum"]


def at_once(pool: Numbers) -> int:
    """How many borrowers were served without standing in line."""
    stats = pool["stats"]
    known = stats.get("requests_queued", 0) + stats.get("requests_refused", 0)
    return max(0, int(stats.get("requests_num", 0) - known))


def of_this_process() -> dict[str, Numbers]:
    """The pools of this process by name. Opens no connection, makes no pool, asks nobody."""
    return by_name({**pool.numbers(), **switchboard.of(pool)} for _, pool in registry.live())


def by_name(pools: Iterable[Numbers]) -> dict[str, Numbers]:
    """The pools by name, those of one name as one.

    An alias whose settings have changed has two pools for as long as the old one has loans.
    """
    found: dict[str, Numbers] = {}
    for pool in pools:
        name = str(pool.get("name") or pool["alias"])
        if listening := pool.get("listening"):
            pool = {**pool, "listening": listeners.numbers(listening)}
        found[name] = _added(found[name], pool) if name in found else pool
    return found


def _added(one: Numbers, other: Numbers) -> Numbers:
    both: dict[str, Any] = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], Mapping):
            both[key] = _added(one[key], other[key])
        elif key in ("longest_wait", "lost"):
            both[key] = max(one[key], other[key])
        elif isinstance(one[key], (int, float)):
            both[key] = one[key] + other[key]
    return both
