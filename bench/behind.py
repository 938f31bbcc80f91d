"""What requests find of strangers behind PgBouncer, in each of its modes, and how many there are.

Six threads, two sessions: every second request sets `search_path` for its session, the others set
nothing and look whether it is what it should be. "refused" are those that were told that they may
not. Each subject runs for a second a round, in turn with the others.
"""

from __future__ import annotations

import argparse
import threading
import time
from contextlib import ExitStack
from typing import Any

import django
from django.conf import settings

from bench.measure import spread, table
from bench.peers import quiet
from bench.request_cycle import OURS, STOCK
from tests.bouncer import PgBouncer
from tests.cluster import Cluster

THREADS, SESSIONS, SECONDS = 6, 2, 1.0
POOL = {"min_size": 0, "max_size": THREADS, "timeout": 10}
SUBJECTS: dict[str, dict[str, Any]] = {
    "stock": {"ENGINE": STOCK, "CONN_MAX_AGE": None},
    "Django's pool": {"ENGINE": STOCK, "OPTIONS": {"pool": POOL}},
    "ours": {"ENGINE": OURS, "OPTIONS": {"pool": POOL}},
    "ours, behind": {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "behind": "pgbouncer"}}},
}
HEADER = ["", "requests", "that set nothing", "found strangers'", "refused"]
USUAL = '"$user", public'


class Requests:
    """What six threads do in a second."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.served = self.plain = self.found = self.refused = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self._run, args=(until,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, until: float) -> None:
        from django.db import NotSupportedError, connections

        connection = connections[self.alias]
        number = 0
        while time.monotonic() < until:
            number += 1
            connection.close_if_unusable_or_obsolete()
            refused = found = 0
            with connection.cursor() as cursor:
                if number % 2:
                    try:
                        cursor.execute("SET search_path = pg_catalog")
                    except NotSupportedError:
                        refused = 1
                else:
                    cursor.execute("SHOW search_path")
                    found = cursor.fetchone()[0] != USUAL
            connection.close_if_unusable_or_obsolete()
            with self._lock:
                self.served += 1
                self.plain += not number % 2
                self.found += found
                self.refused += refused
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    settings.configure(DATABASES={"default": {"ENGINE": STOCK}}, USE_TZ=True)
    django.setup()
    from django.db import connections

    entry = settings.DATABASES["default"]
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        # In session mode a client keeps its session, and there have to be enough.
        for mode, sessions in (("transaction", SESSIONS), ("session", THREADS)):
            found: dict[str, list[Requests]] = {name: [] for name in SUBJECTS}
            for round_ in range(options.rounds):
                for name, subject in SUBJECTS.items():
                    with PgBouncer(cluster, mode, sessions) as bouncer:
                        alias = f"{mode}-{name}-{round_}"
                        place = {**bouncer.django(), "NAME": "postgres", **subject}
                        connections.settings[alias] = connections.configure_settings(
                            {"default": {}, alias: {**entry, **place}}
                        )[alias]
                        requests = Requests(alias)
                        requests.run()
                        found[name].append(requests)
                        if getattr(connections[alias], "pool", None) is not None:
                            connections[alias].close_pool()
            rows = [
                [name, *(spread([float(getattr(one, what)) for one in all_of_it]) for what in WHAT)]
                for name, all_of_it in found.items()
            ]
            table(f"{mode} mode, {SECONDS:g} s a round:", HEADER, rows)


WHAT = ("served", "plain", "found", "refused")

if __name__ == "__main__":
    main()
