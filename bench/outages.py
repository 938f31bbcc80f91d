"""Writes that fail when the server goes away: this pool beside stock Django and Django's own pool.

Six threads write, each write a request of its own, over a primary and a standby:
`target_session_attrs=read-write` finds whichever of the two takes writes. After two seconds
something happens to the primary, a second later the standby is promoted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import django
from django.conf import settings

from bench.measure import quantile, table
from bench.peers import quiet
from bench.request_cycle import OURS, STOCK
from tests.standby import Primary, Standby, Writers, demoted, either, killed, make_table, shut_down

THREADS = 6
POOL = {"min_size": 0, "max_size": THREADS, "timeout": 10}
SUBJECTS: dict[str, dict[str, Any]] = {
    "stock": {"ENGINE": STOCK, "CONN_MAX_AGE": None},
    "stock, health checks": {"ENGINE": STOCK, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
    "Django's pool": {"ENGINE": STOCK, "OPTIONS": {"pool": POOL}},
    "ours": {"ENGINE": OURS, "OPTIONS": {"pool": POOL}},
    "ours, transaction": {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "release": "transaction"}}},
    "ours, no patience": {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "outage_patience": 0}}},
}


def away(seconds: float) -> Callable[[Primary, Standby], None]:
    def crashed_for_long(primary: Primary, standby: Standby) -> None:
        """A crash, and a start of the same server much later."""
        primary.stop("immediate")
        time.sleep(seconds)
        primary.start()

    return crashed_for_long


def play(
    name: str,
    happens: Callable[[Primary, Standby], None],
    before: float = 2.0,
    after: float = 3.0,
) -> Writers:
    """Have writers at work while it happens."""
    from django.db import connections

    with ExitStack() as stack:
        primary = stack.enter_context(Primary())
        standby = stack.enter_context(primary.standby())
        make_table(primary, standby)
        entry = settings.DATABASES["default"]
        place = either(primary, standby)
        subject = SUBJECTS[name]
        options = {"target_session_attrs": "read-write", **subject.get("OPTIONS", {})}
        configured = {**entry, **place, **subject, "OPTIONS": options}
        alias = f"{name}-{happens.__name__}"
        connections.settings[alias] = connections.configure_settings(
            {"default": {}, alias: configured}
        )[alias]
        writers = Writers(alias, THREADS)
        try:
            time.sleep(before)
            happens(primary, standby)
            time.sleep(after)
        finally:
            writers.stop()
            pool = getattr(connections[alias], "pool", None)
            if pool is not None:
                connections[alias].close_pool()
    return writers


def row(name: str, writers: Writers) -> list[object]:
    failed = [seconds for seconds, written in writers.took if not written]
    waited = [seconds for seconds, _ in writers.took if seconds > 0.1]
    return [
        name,
        len(writers.took),
        len(failed),
        len(waited),
        quantile(waited, 0.5) if waited else 0.0,
        max(seconds for seconds, _ in writers.took),
    ]


HEADER = ["", "writes", "failed", "waited > 0.1 s", "their median, s", "the longest, s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["killed", "shut_down", "demoted", "away"])
    parser.add_argument("--subjects", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--away", type=float, default=60.0, help="seconds of the long outage")
    parser.add_argument("--errors", action="store_true", help="show what failed writes said")
    options = parser.parse_args()
    quiet()
    settings.configure(DATABASES={"default": {"ENGINE": STOCK}}, USE_TZ=True)
    django.setup()
    happenings = {
        **{one.__name__: one for one in (killed, shut_down, demoted)},
        "away": away(options.away),
    }
    for key, happens in happenings.items():
        if options.only not in (None, key):
            continue
        played = {name: play(name, happens) for name in options.subjects}
        table(happens.__doc__ or "", HEADER, [row(*one) for one in played.items()])
        if options.errors:
            for name, writers in played.items():
                print(name, writers.errors)


if __name__ == "__main__":
    main()
