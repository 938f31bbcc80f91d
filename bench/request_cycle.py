"""What a pool adds to a request that makes one query, beside Django's own pool.

One thread, one query a request, Django's request signals around it. `extra` is the processor
time over a connection that simply stays open (CONN_MAX_AGE=None). Of many short rounds the lower
quartile counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from bench.measure import interleaved, table
from bench.peers import quiet
from tests.cluster import Cluster

STOCK = "django.db.backends.postgresql"
OURS = "django_connpool.backends.postgresql"
SUBJECTS: dict[str, dict[str, Any]] = {
    "persistent": {"ENGINE": STOCK, "CONN_MAX_AGE": None},
    "django_connpool": {"ENGINE": OURS},
    "Django's pool": {"ENGINE": STOCK, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}},
    "Django's pool, checks": {
        "ENGINE": STOCK,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}},
    },
}


def configure(cluster: Cluster) -> None:
    place = {**cluster.django(), "NAME": "postgres", "HOST": cluster.socket_dir}
    options = place.pop("OPTIONS")
    databases: dict[str, Any] = {}
    for name, entry in {"default": SUBJECTS["persistent"], **SUBJECTS}.items():
        databases[name] = {**place, **entry, "OPTIONS": {**options, **entry.get("OPTIONS", {})}}
    settings.configure(DATABASES=databases, USE_TZ=True, INSTALLED_APPS=[])
    django.setup()


def request(wrapper: Any, query: bool) -> Callable[[], None]:
    """A function that does what Django does to a connection in one request."""

    def handle() -> None:
        wrapper.close_if_unusable_or_obsolete()
        if query:
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
        else:
            wrapper.ensure_connection()
        wrapper.close_if_unusable_or_obsolete()

    return handle


def micros(handle: Callable[[], None], number: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.process_time()
        for _ in range(number):
            handle()
        return (time.process_time() - began) / number * 1e6

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds (default 60)")
    parser.add_argument("--number", type=int, default=500, help="requests a round (default 500)")
    arguments = parser.parse_args()
    quiet()
    with Cluster() as cluster:
        configure(cluster)
        from django.db import connections

        print(f"Django {django.get_version()}")
        for query, title in ((False, "without a query"), (True, "with one query")):
            handles = [request(connections[name], query) for name in SUBJECTS]
            for handle in handles:
                handle()
            rounds = [micros(h, arguments.number) for h in handles]
            found = interleaved(rounds, arguments.rounds, share=0.25)
            extra = [value - found[0] for value in found]
            table(
                f"a request {title}: processor time",
                ["", *SUBJECTS],
                [
                    ["µs", *found],
                    ["extra over persistent, µs", *extra],
                    ["ratio of extra to Django's pool", *[e / extra[2] for e in extra]],
                ],
            )
        for wrapper in connections.all():
            wrapper.close()
            close_pool = getattr(wrapper, "close_pool", None)
            if close_pool is not None:
                close_pool()


if __name__ == "__main__":
    main()
