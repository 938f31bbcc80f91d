"""Eight processes with four threads each, uneven load that moves, twelve connections for all.

A job is what a small request does: it begins, runs some queries in a transaction, and gives back.
At any moment some of the processes are busy with all their threads, and the others have a job now
and then; who is busy changes all the time. Side by side: a bound for the host that the processes
share (`host_max_size`), PgBouncer with as many connections in transaction and in session mode,
Django's own pool with what is left of twelve for each process, and with enough for all threads,
and a connection for each thread.

A subject's processes have their turn while those of the others sleep, and keep their connections
meanwhile, as they would. Throughput is that of all eight processes; a latency is that of a job,
waiting included. A figure is the median of all rounds, with the lowest and the highest of them.

`--watch` counts the sessions on the server as often as it can while the subject of the bound
works, in a turn of its own that is not measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import django
import psycopg

from bench import release
from bench.budget_site import THREADS, WORKERS
from bench.measure import quantile, spread, table
from bench.peers import quiet
from bench.release import Subject
from bench.request_cycle import OURS, STOCK
from tests.cluster import Cluster

CONNECTIONS = 12

SHARED = "host_max_size"
TRANSACTION, SESSION = "PgBouncer transaction", "PgBouncer session"
EACH, ENOUGH = "Django's pool, 1 each", "Django's pool, 4 each"
PERSISTENT = "persistent"
STAYS = {"CONN_MAX_AGE": None, "DISABLE_SERVER_SIDE_CURSORS": True}
SUBJECTS: dict[str, dict[str, Any]] = {
    SHARED: {
        "ENGINE": OURS,
        "OPTIONS": {"pool": {"max_size": THREADS, "host_max_size": CONNECTIONS, "timeout": 60}},
    },
    TRANSACTION: {"ENGINE": STOCK, **STAYS},
    SESSION: {"ENGINE": STOCK, "CONN_MAX_AGE": 0},
    EACH: {"ENGINE": STOCK, "OPTIONS": {"pool": {"min_size": 1, "max_size": 1, "timeout": 60}}},
    ENOUGH: {"ENGINE": STOCK, "OPTIONS": {"pool": {"min_size": 0, "max_size": 4, "timeout": 60}}},
    PERSISTENT: {"ENGINE": STOCK, "CONN_MAX_AGE": None},
}


# -- In the process that compares -----------------------------------------------------------


def database(name: str) -> str:
    return f"budget_{list(SUBJECTS).index(name)}"


class Site:
    """The processes of a subject."""

    def __init__(self, cluster: Cluster, name: str, stack: ExitStack) -> None:
        cluster.execute(f"CREATE DATABASE {database(name)}")
        place = {**cluster.django(), "NAME": database(name), "HOST": cluster.socket_dir}
        if name in (TRANSACTION, SESSION):
            mode = "transaction" if name == TRANSACTION else "session"
            place.update(stack.enter_context(release.pgbouncer(cluster, CONNECTIONS, mode=mode)))
        entry = SUBJECTS[name]
        whole = {**place, **entry, "OPTIONS": {**place["OPTIONS"], **entry.get("OPTIONS", {})}}
        folder = Path(cluster.socket_dir) / "shared"
        folder.mkdir(mode=0o700, exist_ok=True)
        text = json.dumps(whole)
        self._processes = [
            stack.enter_context(Subject("bench.budget_site", text, str(one), str(folder.resolve())))
            for one in range(WORKERS)
        ]

    def run(self, seconds: float) -> dict[str, float]:
        """A round of all processes at a time."""
        answers: list[Any] = [None] * WORKERS

        def ask(number: int) -> None:
            answers[number] = self._processes[number].run(seconds=seconds)

        threads = [threading.Thread(target=ask, args=(one,)) for one in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors := [error for one in answers for error in one["errors"]]:
            raise RuntimeError(errors[0])
        latencies = [latency * 1000 for one in answers for latency in one["latencies"]]
        return {
            "rate": len(latencies) / seconds if seconds else 0.0,
            "p50": quantile(latencies, 0.5),
            "p99": quantile(latencies, 0.99),
            "longest": max(latencies),
        }


def watch(cluster: Cluster, site: Site, seconds: float) -> None:
    """Print the most sessions that were seen while it works."""
    over, counts, gaps = threading.Event(), [], []
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"

    def count() -> None:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            while not over.is_set():
                at = time.monotonic()
                row = connection.execute(query, [database(SHARED)]).fetchone()
                counts.append(row[0] if row else 0)
                time.sleep(0.001)
                gaps.append((time.monotonic() - at) * 1000)

    thread = threading.Thread(target=count)
    thread.start()
    site.run(seconds)
    over.set()
    thread.join()
    print(
        f"\n{SHARED}: at most {max(counts)} sessions in {len(counts)} looks, "
        f"{statistics.median(gaps):.1f} ms apart"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round (default 5)")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--watch", type=float, default=0.0, metavar="SECONDS")
    arguments = parser.parse_args()
    quiet()
    print(f"Django {django.get_version()}, {WORKERS} processes with {THREADS} threads")
    names = []
    for name in arguments.only:
        why = release.missing(release.BOUNCER) if name in (TRANSACTION, SESSION) else ""
        if why:
            print(f"{name} is left out, {why}")
        else:
            names.append(name)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    most: dict[str, int] = dict.fromkeys(names, 0)
    with Cluster(max_connections=200) as cluster, ExitStack() as stack:
        sites = {name: Site(cluster, name, stack) for name in names}
        for site in sites.values():
            site.run(1.0)
        for _ in range(arguments.rounds):
            for name, site in sites.items():
                found[name].append(site.run(arguments.seconds))
                most[name] = max(most[name], cluster.backends(dbname=database(name)))
        if arguments.watch and SHARED in sites:
            watch(cluster, sites[SHARED], arguments.watch)
    rows: list[list[object]] = [
        [name, *[spread([one[key] for one in rounds]) for key in ("rate", "p50", "p99", "longest")]]
        for name, rounds in found.items()
    ]
    for row, name in zip(rows, names, strict=True):
        row.append(most[name])
    table(
        f"{CONNECTIONS} connections",
        ["", "jobs a second", "p50, ms", "p99, ms", "longest, ms", "sessions after a round"],
        rows,
    )


if __name__ == "__main__":
    main()
