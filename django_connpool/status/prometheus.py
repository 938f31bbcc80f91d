"""The report in the Prometheus text format.

Names follow OpenTelemetry's `db.client.connection.*` where it has one for the thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from django_connpool.status.document import Histogram, Pool, Process
from django_connpool.status.report import Report

Labels = dict[str, str]


@dataclass
class Metric:
    name: str
    kind: str
    meaning: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.meaning}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            yield _sample(self.name, labels, value)


@dataclass
class Distribution:
    name: str
    meaning: str
    samples: list[tuple[Labels, Histogram]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.meaning}"
        yield f"# TYPE {self.name} histogram"
        for labels, histogram in self.samples:
            # Ours count each bucket by itself, theirs everything up to its bound.
            counts = accumulate(histogram["buckets"].values())
            for bound, count in zip(histogram["buckets"], counts, strict=True):
                yield _sample(f"{self.name}_bucket", {**labels, "le": bound}, count)
            yield _sample(f"{self.name}_sum", labels, histogram["sum"])
            yield _sample(f"{self.name}_count", labels, histogram["count"])


_GAUGES: tuple[tuple[str, str, Callable[[Pool], float]], ...] = (
    (
        "db_client_connection_max",
        "The most connections the pool may have.",
        lambda pool: pool["max_size"],
    ),
    (
        "db_client_connection_pending_requests",
        "Borrowers that wait now.",
        lambda pool: pool["waiting"],
    ),
    (
        "django_connpool_min_size",
        "Connections the pool keeps open.",
        lambda pool: pool["min_size"],
    ),
    (
        "django_connpool_longest_wait_seconds",
        "Age of the oldest waiter.",
        lambda pool: pool["longest_wait"],
    ),
)

# Keys of a pool's stats.
_COUNTERS = {
    "requests_timeouts": (
        "db_client_connection_timeouts_total",
        "Borrowers that waited as long as they may and got no connection.",
    ),
    "requests_num": ("django_connpool_borrows_total", "Connections asked for."),
    "requests_queued": ("django_connpool_borrows_queued_total", "Borrowers that had to wait."),
    "requests_errors": ("django_connpool_borrows_failed_total", "Borrowers that got an error."),
    "connections_num": (
        "django_connpool_connection_attempts_total",
        "Connections that were tried to be opened.",
    ),
    "connections_errors": (
        "django_connpool_connection_errors_total",
        "Connections that could not be opened.",
    ),
    "connections_lost": ("django_connpool_connections_lost_total", "Connections found dead."),
    "returns_bad": ("django_connpool_returns_bad_total", "Connections given back broken."),
}

# Keys of a pool's histograms, which are in seconds.
_HISTOGRAMS = {
    "wait": ("db_client_connection_wait_time_seconds", "Time until a borrower was served."),
    "hold": ("db_client_connection_use_time_seconds", "Time from loan to return."),
    "connect": ("db_client_connection_create_time_seconds", "Time to open a connection."),
}


def render(report: Report) -> str:
    """The report as one exposition, to be written where a scraper finds it."""
    metrics: list[Metric | Distribution] = [
        *_process_metrics(report),
        *_pool_metrics(report),
        *_distributions(report),
        *_server_metrics(report),
    ]
    return "\n".join(line for metric in metrics if metric.samples for line in metric.lines())


def _process_metrics(report: Report) -> Iterator[Metric]:
    up = Metric("django_connpool_process_up", "gauge", "Whether the process answered.")
    up.samples += [(_of(process), 1) for process in report.processes]
    silent = sorted({silence.pid for silence in report.collected.silent})
    up.samples += [({"pid": str(pid)}, 0) for pid in silent]
    yield up


def _pool_metrics(report: Report) -> Iterator[Metric]:
    pools = list(_pools(report))
    yield from _states(pools)
    for name, meaning, value in _GAUGES:
        yield Metric(name, "gauge", meaning, [(labels, value(pool)) for labels, pool in pools])
    for key, (name, meaning) in _COUNTERS.items():
        counter = Metric(name, "counter", meaning)
        counter.samples += [(labels, pool["stats"].get(key, 0)) for labels, pool in pools]
        yield counter


def _distributions(report: Report) -> Iterator[Distribution]:
    pools = list(_pools(report))
    for key, (name, meaning) in _HISTOGRAMS.items():
        found = [(labels, pool["histograms"][key]) for labels, pool in pools]
        yield Distribution(name, meaning, found)


def _pools(report: Report) -> Iterator[tuple[Labels, Pool]]:
    for process in report.processes:
        for pool in process["pools"]:
            yield {**_of(process), "alias": pool["alias"]}, pool


def _of(process: Process) -> Labels:
    # Each container has a process 1.
    return {"pid": str(process["pid"]), "host": process["host"]}


def _states(pools: list[tuple[Labels, Pool]]) -> Iterator[Metric]:
    count = Metric("db_client_connection_count", "gauge", "Connections of the pool, by state.")
    resting = Metric(
        "django_connpool_connections_offered",
        "gauge",
        "Of those used, what nobody uses at the moment and whoever waits may take.",
    )
    changing = Metric(
        "django_connpool_connections_changing", "gauge", "Connections being opened or closed."
    )
    for labels, pool in pools:
        count.samples.append(({**labels, "state": "idle"}, pool["idle"]))
        offered = pool.get("offered", 0)
        count.samples.append(({**labels, "state": "used"}, pool["in_use"] + offered))
        resting.samples.append((labels, offered))
        changing.samples.append(({**labels, "state": "opening"}, pool["opening"]))
        changing.samples.append(({**labels, "state": "closing"}, pool["closing"]))
    yield count
    yield resting
    yield changing


def _server_metrics(report: Report) -> Iterator[Metric]:
    up = Metric("django_connpool_server_up", "gauge", "Whether the server could be asked.")
    most = Metric(
        "django_connpool_server_max_connections", "gauge", "The server's max_connections."
    )
    reserved = Metric(
        "django_connpool_server_reserved_connections", "gauge", "Of these, kept for superusers."
    )
    count = Metric(
        "django_connpool_server_connections",
        "gauge",
        "Client connections of the server, all databases.",
    )
    for alias, answer in report.server.items():
        labels = {"alias": alias}
        if "error" in answer:
            up.samples.append((labels, 0))
            continue
        up.samples.append((labels, 1))
        most.samples.append((labels, answer["max_connections"]))
        reserved.samples.append((labels, answer["reserved"]))
        count.samples += [
            ({**labels, "state": state}, number) for state, number in answer["states"].items()
        ]
    yield from (up, most, reserved, count)


def _sample(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value:.12g}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
