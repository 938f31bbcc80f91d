"""How long a view takes that makes four queries in one transaction, by the distance to the server.

Whole requests in one thread, side by side in one process and in turns: a connection that stays
open, this backend with each value of `round_trips`, Django's own pool, and stock Django behind
PgBouncer in transaction mode, where that is installed. A relay in a process of its own adds the
distance; without one they talk to the server's socket. A figure is the median of all turns, of
which a quarter is left out at each end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import django

from bench import release
from bench.measure import quantile, spread, table
from bench.request_cycle import DJANGOS, OURS, PERSISTENT, POOLED, SUBJECTS, World, set_up
from tests.cluster import Cluster
from tests.proxy import Proxy

AS_DJANGO, BOUNCER = "as django", release.BOUNCER
ENTRIES: dict[str, dict[str, Any]] = {
    PERSISTENT: SUBJECTS[PERSISTENT],
    POOLED: SUBJECTS[POOLED],
    AS_DJANGO: {"ENGINE": OURS, "OPTIONS": {"pool": {"round_trips": "as django"}}},
    DJANGOS: SUBJECTS[DJANGOS],
    BOUNCER: SUBJECTS[PERSISTENT],
}
DISTANCES = (0.0, 0.5, 1.0, 5.0)  # milliseconds
QUERIES = 4
SECONDS = 0.15  # of a turn, about


def relay(dsn: str, seconds: float) -> None:
    """A relay to a server, until standard input ends. Says on which port it listens."""
    from tests.cluster import Server

    with Proxy(Server.from_url(dsn)) as proxy:
        proxy.latency = seconds
        print(proxy.params()["port"], flush=True)
        sys.stdin.read()


class Relay:
    """Such a process."""

    def __init__(self, dsn: str, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.round_trips", "--relay", dsn, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()


def turn(world: World, requests: int) -> float:
    """Milliseconds that a request takes."""
    with world:
        began = time.perf_counter()
        for _ in range(requests):
            world.get(QUERIES, "atomic")
        return (time.perf_counter() - began) / requests * 1e3


def compare(cluster: Cluster, distance: float, names: list[str], rounds: int) -> list[object]:
    place = {**cluster.django(), "NAME": "postgres", "HOST": cluster.socket_dir}
    found: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        worlds = {}
        for name in names:
            there = dict(place)
            if name == BOUNCER:
                there.update(stack.enter_context(release.pgbouncer(cluster)))
            if distance:
                url = f"postgresql://postgres@/postgres?host={there['HOST']}&port={there['PORT']}"
                port = stack.enter_context(Relay(url, distance / 1e3))
                there.update(HOST="127.0.0.1", PORT=port)
            worlds[name] = World(name, there, 1, ENTRIES[name])
            stack.callback(worlds[name].close)
        requests = max(10, int(SECONDS * 1e3 / (1 + 6 * distance)))
        for world in worlds.values():
            turn(world, 100 if not distance else 10)
        for _ in range(rounds):
            for name, world in worlds.items():
                found[name].append(turn(world, requests))
    base = quantile(found[PERSISTENT], 0.5)
    cells = [
        f"{spread(found[name], 0.25)}, {base / quantile(found[name], 0.5):.2f} x" for name in names
    ]
    return [f"{distance} ms away", *cells]


def main() -> None:
    if sys.argv[1:2] == ["--relay"]:
        relay(sys.argv[2], float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default 20)")
    parser.add_argument("--distances", type=float, nargs="+", default=DISTANCES, metavar="MS")
    arguments = parser.parse_args()
    names = [name for name in ENTRIES if name != BOUNCER or not release.missing(name)]
    set_up()
    print(f"Django {django.get_version()}, Python {sys.version.split()[0]}")
    with Cluster(max_connections=100) as cluster:
        rows = [
            compare(cluster, distance, names, arguments.rounds) for distance in arguments.distances
        ]
    table(
        f"a request with {QUERIES} queries in one transaction: ms, and how many times as fast as "
        "with a connection that stays open",
        ["", *names],
        rows,
    )


if __name__ == "__main__":
    main()
