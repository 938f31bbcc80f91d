"""What one request leaves in its session for the next: this pool beside Django's own.

The corpus is that of the tests (tests/sessions/corpus.py). Each change is made by one request on
a pool of one connection and looked for by the next; what that finds is compared with a session
that nobody has used. Then: what cleaning costs the borrower, and looking at a statement where
functions on the server change a session (hidden.py).
"""

from __future__ import annotations

import argparse
import logging
import select
import statistics
import time
from collections.abc import Callable
from typing import Any

import django
import psycopg
from django.conf import settings

from bench.measure import interleaved, table
from bench.peers import quiet
from bench.request_cycle import OURS, STOCK
from django_connpool import ConnectionPool
from django_connpool.session.hidden import Hidden
from django_connpool.session.statements import Judge
from tests.cluster import Cluster

POOL = {"min_size": 1, "max_size": 1, "timeout": 5}
SUBJECTS: dict[str, dict[str, Any]] = {
    "Django's pool": {"ENGINE": STOCK, "OPTIONS": {"pool": POOL}},
    'reset "auto"': {"ENGINE": OURS, "OPTIONS": {"pool": POOL}},
    'reset "always"': {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "reset": "always"}}},
}


def configure(cluster: Cluster) -> None:
    place = {**cluster.django(), "NAME": "postgres"}
    options = place.pop("OPTIONS")
    subjects = {"default": {"ENGINE": STOCK}, "fresh": {"ENGINE": STOCK}, **SUBJECTS}
    databases = {
        name: {**place, **entry, "OPTIONS": {**options, **entry.get("OPTIONS", {})}}
        for name, entry in subjects.items()
    }
    settings.configure(DATABASES=databases, USE_TZ=True, INSTALLED_APPS=[])
    django.setup()


def count_leaks(cluster: Cluster, verbose: bool) -> None:
    from django.db import connections

    from tests.sessions import corpus
    from tests.sessions.state import full_state, leaks

    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(corpus.SETUP)
    fresh = full_state(connections["fresh"])
    groups = {
        "seen from outside": {**corpus.STATEMENTS, **corpus.REPORTED},
        "hidden in functions": corpus.HIDDEN,
        "changes nothing": corpus.HARMLESS,
    }
    rows: list[list[object]] = []
    for title, changes in groups.items():
        leaked = []
        for subject in SUBJECTS:
            names = [
                name
                for name, change in changes.items()
                if _leaks(connections[subject], change, fresh, corpus.apply, leaks)
            ]
            if verbose:
                print(f"{subject}, {title}: {', '.join(names) or 'none'}")
            leaked.append(len(names))
        rows.append([f"{title}, of {len(changes)}", *leaked])
    table("changes of a session that the next request finds", ["", *SUBJECTS], rows)
    connections["fresh"].close()


def _leaks(wrapper: Any, change: Any, fresh: Any, apply: Any, leaks: Any) -> bool:
    kept = None
    try:
        kept = apply(wrapper, change)
    except Exception as error:
        logging.debug("the change fails: %s", error)
    try:
        wrapper.close()
        return bool(leaks(wrapper, fresh))
    finally:
        del kept
        wrapper.close()
        wrapper.close_pool()


def cost(cluster: Cluster, rounds: int, number: int = 500) -> None:
    """The time a borrower spends in giving back and borrowing, cleaning included."""
    pool = ConnectionPool(
        cluster.dsn(host=cluster.socket_dir),
        kwargs={"autocommit": True},
        min_size=0,
        max_size=1,
    )

    def cycle(statement: str, patience: float, clock: Callable[[], int]) -> Callable[[], float]:
        def measure() -> float:
            spent = []
            for _ in range(number):
                conn = pool.getconn()
                conn.execute(statement)
                began = clock()
                pool.putconn(conn)
                given = clock()
                # Until the answer is there, if one comes: both kinds of loan begin after a pause.
                select.select([conn], [], [], patience)
                again = clock()
                pool.getconn()
                spent.append(given - began + clock() - again)
                pool.putconn(conn)
            return statistics.median(spent) / 1e3

        return measure

    clocks = {"by the clock": time.perf_counter_ns, "processor time": time.thread_time_ns}
    sessions = {"clean session": ("SELECT 1", 0.0002), "changed": ("SET work_mem = '7MB'", 1.0)}
    subjects = {
        f"{name}, {label}": cycle(*session, clock)
        for label, clock in clocks.items()
        for name, session in sessions.items()
    }
    micros = interleaved(list(subjects.values()), rounds)
    more = [micros[at] - micros[at - at % 2] for at in range(len(micros))]
    table(
        "giving back and borrowing again: the borrower's time",
        ["", *subjects],
        [["µs", *micros], ["more than clean, µs", *more]],
    )
    pool.close()


def cost_of_names(rounds: int) -> None:
    """The processor time of looking at a statement that is not remembered."""
    statements = {
        "short": f"SELECT {', '.join(f'c{n}' for n in range(12))} FROM shop_item WHERE id = %s",
        "14 kB": f"INSERT INTO shop_item (a, b, c) VALUES {', '.join(['(%s, %s, %s)'] * 1000)}",
        "900 kB": f"INSERT INTO shop_item VALUES {', '.join(['(12345, *a usual text*)'] * 36_000)}",
    }
    names = [f"set_{'x' * (number % 12)}_{number}" for number in range(500)]

    def looking(text: str, count: int) -> Callable[[], float]:
        judge = Judge()
        judge.learn(Hidden(set(names[:count]), set(), set(), ()) if count else None)
        number = max(1, 1_000_000 // len(text))

        def measure() -> float:
            began = time.thread_time_ns()
            for _ in range(number):
                judge.judge(text)
            return (time.thread_time_ns() - began) / number / 1e3

        return measure

    counts = (0, 3, 500)
    rows: list[list[object]] = []
    for title, text in statements.items():
        rows.append([title, *interleaved([looking(text, count) for count in counts], rounds)])
    table("looking at a statement, µs", ["", *(f"{count} names" for count in counts)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--verbose", action="store_true", help="name what leaks")
    arguments = parser.parse_args()
    quiet()
    with Cluster() as cluster:
        configure(cluster)
        print(f"Django {django.get_version()}, psycopg {psycopg.__version__}")
        count_leaks(cluster, arguments.verbose)
        cost(cluster, arguments.rounds)
    cost_of_names(arguments.rounds)


if __name__ == "__main__":
    main()
