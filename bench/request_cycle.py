"""What a pool adds to a whole request: Django's handlers, signals, the middleware, the queries.

In turns: a connection that stays open (CONN_MAX_AGE=None), this backend as README installs it and
without its middleware, Django's own pool with and without its checks, django-pg-real-pool. With 1,
6 and 100 aliases, all of which were used once; the request queries one of them.

Each in three processes of its own, as a site's: Python specializes code for the classes that it
meets, and where several engines take turns in one process, Django's and psycopg's is right for none
of them. Three, because the same code costs some more or less in another process.

A figure is processor time, of all threads: of many short turns of a process the one that a quarter
is below, for whatever else the machine does only makes them longer; then the median of the
processes, with the least and the most. Async requests have a thread each in Django, in which no
connection stays open: theirs are compared with an engine that hands what is open from thread to
thread, and does nothing else (bench/kept/).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.asking import ask, ask_async
from bench.measure import quantile, spread, table
from bench.peers import quiet
from django_connpool import registry, requests
from tests.cluster import Cluster

STOCK = "django.db.backends.postgresql"
OURS = "django_connpool.backends.postgresql"
REAL_POOL = "django_pg_real_pool"
MIDDLEWARE = "django_connpool.middleware.ConnectionPoolMiddleware"

PERSISTENT, POOLED, DJANGOS = "persistent", "django_connpool", "Django's pool"
BARE, KEPT = "no middleware", "kept"
_DJANGO_POOL = {"ENGINE": STOCK, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}
SUBJECTS: dict[str, dict[str, Any]] = {
    PERSISTENT: {"ENGINE": STOCK, "CONN_MAX_AGE": None},
    POOLED: {"ENGINE": OURS},
    BARE: {"ENGINE": OURS},
    KEPT: {"ENGINE": "bench.kept"},
    DJANGOS: _DJANGO_POOL,
    "with checks": {**_DJANGO_POOL, "CONN_HEALTH_CHECKS": True},
    "real-pool": {
        "ENGINE": REAL_POOL,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}},
    },
}
ALIASES, QUERIES = (1, 6, 100), (1, 10)
TURN = 60  # requests, at most; and half as many queries, at least
UNCOUNTED = 0.1  # of a turn, which begins with cold caches
EARLIER = 2000  # requests before the first turn, in which Python specializes its code
PROCESSES = 3  # for each subject, if they need no more connections than these
MOST_CONNECTIONS = 700


def query(number: int) -> None:
    from django.db import connection

    for _ in range(number):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()


def in_sync(request: HttpRequest, number: int) -> HttpResponse:
    query(number)
    return HttpResponse("done")


async def in_async(request: HttpRequest, number: int) -> HttpResponse:
    from asgiref.sync import sync_to_async

    if number:
        await sync_to_async(query)(number)
    return HttpResponse("done")


def in_atomic(request: HttpRequest, number: int) -> HttpResponse:
    from django.db import transaction

    with transaction.atomic():
        query(number)
    return HttpResponse("done")


urlpatterns = [
    path("sync/<int:number>/", in_sync),
    path("async/<int:number>/", in_async),
    path("atomic/<int:number>/", in_atomic),
]


class World:
    """A site of its own in this process: so many aliases of one subject, and two handlers."""

    def __init__(
        self, name: str, place: dict[str, Any], aliases: int, entry: dict[str, Any] | None = None
    ) -> None:
        from django.core.handlers.asgi import ASGIHandler
        from django.core.handlers.wsgi import WSGIHandler
        from django.db import connections
        from django.db.utils import ConnectionHandler
        from django.test.utils import override_settings

        # It closes the pools of aliases that are not there, as those of the other worlds.
        registry.sweep = lambda: None
        entry = entry or SUBJECTS[name]
        options = {**place["OPTIONS"], **entry.get("OPTIONS", {})}
        # So that no two subjects have a pool in common.
        options["application_name"] = name
        databases = {
            ("default" if number == 0 else f"other{number}"): {
                **place,
                **entry,
                "OPTIONS": {**options, "client_encoding": "UTF8"},
            }
            for number in range(aliases)
        }
        handler: Any = ConnectionHandler(databases)
        self._inside = {"settings": handler.settings, "_connections": handler._connections}
        self._outside: dict[str, Any] = {}
        self._connections: Any = connections
        installs = entry["ENGINE"] == OURS and name != BARE
        self._listens = name == BARE  # only this world has receivers of ours, as its site would
        middleware = [MIDDLEWARE] if installs else []
        with self, override_settings(MIDDLEWARE=middleware):
            self._wsgi = WSGIHandler()
            self._asgi: Any = ASGIHandler()
            for alias in connections:
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT 1")
                if entry.get("CONN_MAX_AGE", 0) == 0 or alias != "default":
                    connections[alias].close()

    def __enter__(self) -> World:
        present = vars(self._connections)
        self._outside = {name: present.get(name) for name in self._inside}
        present.update(self._inside)
        (requests.connect if self._listens else requests.disconnect)()
        return self

    def __exit__(self, *exc_info: object) -> None:
        vars(self._connections).update(self._outside)

    def get(self, number: int, view: str = "sync") -> None:
        assert ask(self._wsgi, f"/{view}/{number}/")

    async def get_async(self, number: int) -> None:
        assert await ask_async(self._asgi, f"/async/{number}/")

    def turn(self, loop: asyncio.AbstractEventLoop | None, number: int) -> float:
        """Microseconds that a request costs."""
        times = TURN if number < 2 else TURN // 4
        if loop is not None:
            times //= 4

        async def run(times: int) -> None:
            for _ in range(times):
                await self.get_async(number)

        with self:
            for count in (int(UNCOUNTED * times), times):
                began = time.process_time()
                if loop is not None:
                    loop.run_until_complete(run(count))
                else:
                    for _ in range(count):
                        self.get(number)
            return (time.process_time() - began) / times * 1e6

    def close(self) -> None:
        with self:
            for wrapper in self._connections.all(initialized_only=True):
                wrapper.close()
                close_pool: Callable[[], None] | None = getattr(wrapper, "close_pool", None)
                if close_pool is not None:
                    close_pool()


class Site:
    """Processes that have nothing but the world of one subject, and take turns."""

    def __init__(
        self, name: str, place: dict[str, Any], aliases: int, processes: int, *, is_async: bool
    ) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._processes = []
        for _ in range(processes):
            ours, theirs = spawned.Pipe()
            arguments = (theirs, name, place, aliases, is_async)
            process = spawned.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append((ours, process))

    def turn(self, number: int) -> list[float]:
        """Microseconds that a request costs in each of its processes, one after the other."""
        found = []
        for connection, _ in self._processes:
            connection.send(number)
            found.append(connection.recv())
        return found

    def close(self) -> None:
        for connection, process in self._processes:
            connection.close()
            process.join()


def serve(asked: Any, name: str, place: dict[str, Any], aliases: int, is_async: bool) -> None:
    """In a process of a site: be asked for turns until nobody asks any more."""
    set_up()
    loop = asyncio.new_event_loop() if is_async else None
    world = World(name, place, aliases)
    for number in QUERIES:
        for _ in range(EARLIER // TURN):
            world.turn(loop, number)
    with suppress(EOFError):
        while True:
            asked.send(world.turn(loop, asked.recv()))
    world.close()
    if loop is not None:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def set_up() -> None:
    quiet()
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={},
        ROOT_URLCONF="bench.request_cycle",
        USE_TZ=True,
        MIDDLEWARE=[],
    )
    django.setup()


@contextmanager
def sites(
    names: list[str], place: dict[str, Any], aliases: int, *, is_async: bool
) -> Iterator[dict[str, Site]]:
    """One for each subject, side by side."""
    made: dict[str, Site] = {}
    # As many processes as the server has connections for, one for each alias of each.
    processes = max(1, min(PROCESSES, MOST_CONNECTIONS // (len(names) * aliases)))
    try:
        for name in names:
            made[name] = Site(name, place, aliases, processes, is_async=is_async)
        yield made
    finally:
        for site in made.values():
            site.close()


def costs(made: dict[str, Site], number: int, rounds: int) -> dict[str, list[float]]:
    """What a request with so many queries costs in each process of each site, in microseconds."""
    turns: dict[str, list[list[float]]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, site in made.items():
            turns[name].append(site.turn(number))
    return {
        name: [quantile(of_one, 0.25) for of_one in zip(*found, strict=True)]
        for name, found in turns.items()
    }


def compare(
    names: list[str], place: dict[str, Any], aliases: int, rounds: int, *, is_async: bool
) -> None:
    kept, other = (KEPT, PERSISTENT) if is_async else (PERSISTENT, KEPT)
    names = [name for name in names if name != other]
    rows: list[list[object]] = []
    with sites(names, place, aliases, is_async=is_async) as made:
        for number in QUERIES:
            cost = costs(made, number, rounds)
            label = "one query" if number == 1 else f"{number} queries"
            rows.append([f"{label}, µs", *[spread(cost[name]) for name in names]])
            if kept not in cost:
                continue
            least = quantile(cost[kept], 0.5)
            more = {name: [one - least for one in cost[name]] for name in names}
            rows.append([f"  over {kept}, µs", *[spread(more[name]) for name in names]])
            if DJANGOS in more and not is_async:  # there Django's differs too little from it
                base = quantile(more[DJANGOS], 0.5)
                ratios = [f"{quantile(more[name], 0.5) / base:.2f}" for name in names]
                rows.append(["  as part of Django's pool", *ratios])
    what = "async" if is_async else "sync"
    some = "1 alias" if aliases == 1 else f"{aliases} aliases"
    table(f"a whole {what} request, {some}: processor time", ["", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=80, help="interleaved rounds (default 80)")
    parser.add_argument("--aliases", type=int, nargs="+", default=ALIASES, metavar="N")
    parser.add_argument("--only", choices=("sync", "async"), help="one of the two (default: both)")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = parser.parse_args()
    names = arguments.subjects
    if "real-pool" in names and importlib.util.find_spec(REAL_POOL) is None:
        print(f"real-pool is left out: {REAL_POOL} is not installed")
        names.remove("real-pool")
    set_up()
    print(f"Django {django.get_version()}, Python {sys.version.split()[0]}")
    with Cluster(max_connections=MOST_CONNECTIONS + 100) as cluster:
        place = {**cluster.django(), "NAME": "postgres", "HOST": cluster.socket_dir}
        for is_async in (False, True):
            if arguments.only in (None, "async" if is_async else "sync"):
                for aliases in arguments.aliases:
                    compare(names, place, aliases, arguments.rounds, is_async=is_async)
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
