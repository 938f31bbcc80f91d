"""The process of a subject of held.py: a site, and what is asked of it in a turn."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.asking import ask, ask_async
from bench.measure import quantile

SLOW, QUICK = 16, 40  # requests of `a`
JOBS = 60
# Of a turn, where the threads do as much as they can. They begin all at once, as no requests do:
# in 0.7 s that is a twelfth of what 64 threads do that wait 50 ms, and tells on the figure.
SECONDS = 2.0
IN_FLIGHT = 16  # async requests at a time
ASYNC = "async"  # the alias that their views use, where there is one
BURST = 400  # queries of a burst of `e`, about


def query(alias: str = "default") -> None:
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def waits(request: HttpRequest, alias: str, queries: int, pause: int) -> HttpResponse:
    """A query, so many milliseconds of something else, the other queries."""
    query(alias)
    if pause:
        time.sleep(pause / 1000)
    for _ in range(queries - 1):
        query(alias)
    return HttpResponse("done")


async def gathers(request: HttpRequest, queries: int, pause: int) -> HttpResponse:
    """As many queries at once, so many milliseconds of something else, the queries again."""
    alias = ASYNC if ASYNC in settings.DATABASES else "default"
    await asyncio.gather(*[sync_to_async(query)(alias) for _ in range(queries)])
    await asyncio.sleep(pause / 1000)
    await asyncio.gather(*[sync_to_async(query)(alias) for _ in range(queries)])
    return HttpResponse("done")


urlpatterns = [
    path("gathers/<int:queries>/<int:pause>/", gathers),
    path("<slug:alias>/<int:queries>/<int:pause>/", waits),
]


class Site:
    """Django's two handlers, asked as a server asks them. An answer is whether all went well."""

    def __init__(self, databases: dict[str, Any]) -> None:
        ours = any("connpool" in entry.get("ENGINE", "") for entry in databases.values())
        middleware = ["django_connpool.middleware.ConnectionPoolMiddleware"]
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES=databases,
            INSTALLED_APPS=["django_connpool"] if ours else [],
            MIDDLEWARE=middleware if ours else [],
            ROOT_URLCONF=__name__,
            USE_TZ=True,
        )
        django.setup()
        from django.core.handlers.asgi import ASGIHandler
        from django.core.handlers.wsgi import WSGIHandler

        self._wsgi = WSGIHandler()
        self._asgi: Any = ASGIHandler()

    def get(self, queries: int, pause: int = 0, alias: str = "default") -> bool:
        return ask(self._wsgi, f"/{alias}/{queries}/{pause}/")

    async def gather(self, queries: int, pause: int) -> bool:
        return await ask_async(self._asgi, f"/gathers/{queries}/{pause}/")


def job(queries: int = 1, pause: float = 0.0) -> bool:
    """Work in a thread, with nothing around it. Without a connection it fails."""
    try:
        query()
        if pause:
            time.sleep(pause)
        for _ in range(queries - 1):
            query()
    except Exception:
        return False
    return True


def job_of_celery() -> bool:
    """Work with what Celery has Django do before and after it."""
    from django.db import close_old_connections

    close_old_connections()
    try:
        return job(2, 0.01)
    finally:
        close_old_connections()


# -- Turns: each returns its figures by the names of their rows ------------------------------

Found = dict[str, float]


class Times(NamedTuple):
    """What one thread, or one async task, got done in its turn."""

    rate: float
    failed: int
    took: list[float]

    @classmethod
    def of(cls, began: float, answers: list[tuple[bool, float]]) -> Times:
        well = [seconds for ok, seconds in answers if ok]
        rate = len(well) / (time.perf_counter() - began)
        return cls(rate, len(answers) - len(well), [seconds for _, seconds in answers])


def again_and_again(do: Callable[[], bool]) -> Times:
    answers = []
    began = now = time.perf_counter()
    while now < began + SECONDS:
        ok, since = do(), now
        now = time.perf_counter()
        answers.append((ok, now - since))
    return Times.of(began, answers)


def load(workers: ThreadPoolExecutor, threads: int, do: Callable[[], bool]) -> list[Times]:
    return list(workers.map(again_and_again, [do] * threads))


def figures(what: str, times: list[Times], slowest: bool = False) -> Found:
    found: Found = {
        f"{what}: requests a second": sum(each.rate for each in times),
        f"{what}: failed": sum(each.failed for each in times),
    }
    if slowest:
        took = [seconds for each in times for seconds in each.took]
        found[f"{what}: slowest hundredth, ms"] = quantile(took, 0.99) * 1e3
    return found


def beside_slow_ones(site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
    began = time.perf_counter()

    def quick(number: int) -> tuple[bool, float]:
        due = began + number / QUICK
        time.sleep(max(0.0, due - time.perf_counter()))
        return site.get(1), time.perf_counter() - due

    slow = [workers.submit(site.get, 2, 1000) for _ in range(SLOW)]
    answers = list(workers.map(quick, range(QUICK)))
    return {
        f"slow ones that failed, of {SLOW}": sum(not future.result() for future in slow),
        f"quick ones that failed, of {QUICK}": sum(not ok for ok, _ in answers),
        "slowest quick one, ms": max(seconds for _, seconds in answers) * 1e3,
    }


def bare_jobs(site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
    began = time.perf_counter()
    failed = sum(not ok for ok in workers.map(lambda _: job(), range(JOBS)))
    return {f"failed, of {JOBS}": failed, "seconds in all": time.perf_counter() - began}


def waiting(site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
    return figures("50 ms", load(workers, threads, lambda: site.get(2, 50)))


def without_waiting(site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
    one = load(workers, threads, lambda: site.get(1))
    ten = load(workers, threads, lambda: site.get(10))
    return {**figures("one query", one, slowest=True), **figures("ten", ten, slowest=True)}


async def in_flight(site: Site) -> list[Times]:
    async def again_and_again() -> Times:
        answers = []
        began = now = time.perf_counter()
        while now < began + SECONDS:
            ok, since = await site.gather(4, 20), now
            now = time.perf_counter()
            answers.append((ok, now - since))
        return Times.of(began, answers)

    return await asyncio.gather(*[again_and_again() for _ in range(IN_FLIGHT)])


def async_and_living_on(site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
    # The first lets go of what the last of the turn before has left in these threads.
    return {
        **figures("Celery's jobs", load(workers, threads, job_of_celery)),
        **figures("async", asyncio.run(in_flight(site))),
        **figures("bare jobs", load(workers, threads, lambda: job(2, 0.01))),
    }


def on_one_core(aliases: list[str]) -> None:
    """Keep this process and its servers on one core.

    Else what a query costs depends on where the system has put its server: for a long time it is
    the half more with one connection than with another.
    """
    from django.db import connections

    if not hasattr(os, "sched_setaffinity"):
        return
    core = {max(os.sched_getaffinity(0))}
    pids = {0}
    for alias in aliases:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.add(cursor.fetchone()[0])
    for pid in pids:
        os.sched_setaffinity(pid, core)


class Cost:
    """Bursts of requests in one thread, to each alias in turn: a turn is one burst of each."""

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, site: Site, workers: ThreadPoolExecutor, threads: int) -> Found:
        aliases = [alias for alias in settings.DATABASES if alias != "default"]
        if not self._turn:
            on_one_core(aliases)
        first, self._turn = self._turn % len(aliases), self._turn + 1
        found: Found = {}
        for queries in (1, 10):
            number = BURST // (queries + 3)
            for alias in aliases[first:] + aliases[:first]:
                site.get(queries, 0, alias)
                began = time.process_time()
                well = [site.get(queries, 0, alias) for _ in range(number)]
                found[f"{alias} {queries}"] = (time.process_time() - began) / number * 1e6
                if not all(well):
                    raise RuntimeError(f"requests to {alias} fail")
        return found


class Scenario(NamedTuple):
    title: str
    turn: Callable[[Site, ThreadPoolExecutor, int], Found]
    threads: int
    connections: int
    warm: bool = True
    timeout: int = 5


SCENARIOS = {
    "a": Scenario("requests that wait a second", beside_slow_ones, SLOW + QUICK, 2),
    "b": Scenario("jobs that nothing gives back for", bare_jobs, 8, 4, warm=False),
    "c": Scenario("requests that wait 50 ms", waiting, 64, 4),
    "d": Scenario("requests that do not wait", without_waiting, 32, 4),
    "e": Scenario("a whole request: processor time", Cost(), 1, 4, warm=False),
    "f": Scenario("async views, threads that live on", async_and_living_on, 16, 4, False, 1),
}


def serve_turns(scenario: Scenario, databases: dict[str, Any]) -> None:
    """For each line of standard input have a turn, and write what it came to."""
    site = Site(databases)
    workers = ThreadPoolExecutor(scenario.threads)
    met = threading.Barrier(scenario.threads)

    def once(_: int) -> None:
        site.get(1)
        met.wait()  # so that each thread does it, and has its connection if it is to have one

    if scenario.warm:
        list(workers.map(once, range(scenario.threads)))
    for _ in sys.stdin:
        print(json.dumps(scenario.turn(site, workers, scenario.threads)), flush=True)
    # Nobody waits for what else has threads here.
    os._exit(0)


def main() -> None:
    # What the subjects say of what is done to them on purpose. (bench.peers would take long.)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    letter, databases = sys.argv[1:]
    serve_turns(SCENARIOS[letter], json.loads(databases))


if __name__ == "__main__":
    main()
