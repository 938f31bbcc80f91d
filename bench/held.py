"""What becomes of the others when borrowers hold a connection while they wait for something else.

Whole requests through Django's handlers, and jobs outside of any request, with default settings
but for `max_size` and a timeout that is the same for all. Side by side: this backend in each mode
of `release`, Django's own pool, django-pg-real-pool, a connection for each thread, and stock
Django behind PgBouncer in transaction mode.

  a  16 requests that query, wait a second and query again; 40 quick ones beside them
  b  jobs in threads that live on, without anything around them that would give back
  c  requests that wait 50 ms between two queries, in many more threads than connections
  d  the same without waiting, with one query and with ten
  e  what a whole request costs in processor time when nobody else wants a connection
  f  async views that gather queries, and threads that live on, as those of Celery do

Each subject lives in a process of its own, one for each of these letters, and has its turn while
the others sleep. The modes that `e` compares are aliases of one process; `request-again` is there
to see how much two aliases differ that do not. A figure is the median of all rounds, with the
lowest and the highest of them; of the many short bursts of `e` a quarter is left out at each end.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

from bench import release
from bench.measure import spread, table
from bench.peers import quiet
from bench.release import BOUNCER, DJANGO, PERSISTENT, REAL, REAL_POOL, Subject
from bench.request_cycle import OURS, STOCK
from bench.site import ASYNC, SCENARIOS, Scenario
from django_connpool import conf
from tests.cluster import Cluster

MODES = ("auto", "request", "transaction")
SUBJECTS: dict[str, dict[str, Any]] = {
    **{mode: {"ENGINE": OURS, "OPTIONS": {"pool": {"release": mode}}} for mode in MODES},
    DJANGO: {"ENGINE": STOCK, "OPTIONS": {"pool": {}}},
    REAL: {"ENGINE": REAL_POOL, "OPTIONS": {"pool": {}}},
    PERSISTENT: release.SUBJECTS[PERSISTENT],
    BOUNCER: release.SUBJECTS[BOUNCER],
}

BURSTS = 40  # of `e` in a round
STUCK = 30.0  # seconds after which a turn is given up
LOST = f"its process ended, or had no answer after {STUCK:.0f} s"


class Bounded(Subject):
    """A subject that is ended when a turn takes too long."""

    def run(self, **asked: float) -> dict[str, float]:
        timer = threading.Timer(STUCK, self._process.kill)
        timer.start()
        try:
            return super().run(**asked)
        finally:
            timer.cancel()


def missing(name: str) -> str:
    """Why a subject cannot be there; empty when it can."""
    if name in (DJANGO, REAL) and django.VERSION < (5, 1):
        return "it wants Django 5.1 or later"
    if name in MODES:
        try:
            conf.parse(SUBJECTS[name])
        except ImproperlyConfigured as error:
            return str(error)
    return release.missing(name)


def entry_of(name: str, scenario: Scenario, cluster: Cluster, stack: ExitStack) -> dict[str, Any]:
    """The subject's entry of DATABASES."""
    place = {**cluster.django(), "NAME": "postgres", "HOST": cluster.socket_dir}
    if name == BOUNCER:
        bouncer = release.pgbouncer(cluster, scenario.connections, scenario.timeout)
        place.update(stack.enter_context(bouncer))
    entry = SUBJECTS[name]
    options = {**place["OPTIONS"], **entry.get("OPTIONS", {})}
    if "pool" in options:
        sizes = {"max_size": scenario.connections, "timeout": scenario.timeout}
        if entry["ENGINE"] != OURS:
            sizes["min_size"] = scenario.connections  # psycopg_pool's default is above our 2
        options["pool"] = {**options["pool"], **sizes}
    return {**place, **entry, "OPTIONS": options}


def databases_of(
    name: str, letter: str, cluster: Cluster, stack: ExitStack
) -> dict[str, dict[str, Any]]:
    entry = entry_of(name, SCENARIOS[letter], cluster, stack)
    if letter == "f" and "CONN_MAX_AGE" in entry:
        # An async request has a thread of its own, and what that keeps open is lost with it.
        return {"default": entry, ASYNC: {**entry, "CONN_MAX_AGE": 0}}
    return {"default": entry}


def start(letter: str, databases: dict[str, Any], stack: ExitStack) -> Bounded:
    subject = Bounded("bench.site", letter, json.dumps(databases))
    stack.enter_context(subject)
    return subject


def compare(letter: str, names: list[str], rounds: int, cluster: Cluster) -> None:
    scenario = SCENARIOS[letter]
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    with ExitStack() as stack:
        subjects = {
            name: start(letter, databases_of(name, letter, cluster, stack), stack) for name in names
        }
        for number in range(rounds):
            first = number % len(names)
            for name in [name for name in names[first:] + names[:first] if name in subjects]:
                try:
                    turn = subjects[name].run()
                except (RuntimeError, OSError):
                    del subjects[name]
                    print(f"({letter}) {name}: {LOST}")
                    continue
                for row, value in turn.items():
                    found[name][row].append(value)
    rows = {row: None for each in found.values() for row in each}
    title = f"{scenario.threads} threads, {scenario.connections} connections: {scenario.title}"
    table(
        f"({letter}) {title}; timeout {scenario.timeout} s",
        ["", *names],
        [
            [row, *[spread(found[name][row]) if found[name][row] else "-" for name in names]]
            for row in rows
        ],
    )


def cost(letter: str, names: list[str], rounds: int, cluster: Cluster) -> None:
    scenario = SCENARIOS[letter]
    modes = {name: name for name in names if name in MODES}
    if "request" in modes:
        modes["request-again"] = "request"
    with ExitStack() as stack:
        databases = {
            alias: entry_of(mode, scenario, cluster, stack) for alias, mode in modes.items()
        }
        subject = start(letter, {"default": {}, **databases}, stack)
        try:
            subject.run()
            turns = [subject.run() for _ in range(rounds * BURSTS)]
        except (RuntimeError, OSError):
            print(f"({letter}) {', '.join(modes)}: {LOST}")
            return
    rows: list[list[object]] = []
    for queries, label in ((1, "one query"), (10, "ten queries")):
        micros = {alias: [turn[f"{alias} {queries}"] for turn in turns] for alias in modes}
        rows.append([f"{label}, µs", *[spread(each, 0.25) for each in micros.values()]])
        if base := micros.get("request"):
            more = [[a - b for a, b in zip(each, base, strict=True)] for each in micros.values()]
            rows.append(["  more than request, µs", *[spread(each, 0.25) for each in more]])
    table(f"({letter}) {scenario.title}; one thread", ["", *modes], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = parser.parse_args()
    quiet()
    print(f"Django {django.get_version()}")
    names = []
    for name in arguments.subjects:
        if why := missing(name):
            print(f"{name} is left out: {why}")
        else:
            names.append(name)
    if not names:
        return
    with Cluster(max_connections=200) as cluster:
        for letter in arguments.only:
            if letter != "e":
                compare(letter, names, arguments.rounds, cluster)
            elif set(names) & set(MODES):
                cost(letter, names, arguments.rounds, cluster)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
