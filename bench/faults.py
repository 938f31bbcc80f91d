"""What becomes of a pool when its borrowers misbehave: this one beside psycopg_pool.

psycopg_pool is what Django's own pool is made of; the rows that begin with a name ask Django's
own backend and ours, in the way a project does.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import django
from django.conf import settings

from bench.measure import table
from bench.peers import Ours, Peer, PsycopgPool, quiet
from tests.cluster import Cluster

MAKERS: tuple[type[Ours] | type[PsycopgPool], ...] = (PsycopgPool, Ours)
QUERIES = 150
CHILDREN = 3

_numbers = itertools.count(1)


def dead_threads(make: Callable[..., Peer], dsn: str) -> str:
    """Threads that borrow and end; how many slots are left of four?"""
    peer = make(dsn, 4, timeout=1.0)
    kept: list[Any] = []
    for _ in range(4):
        thread = threading.Thread(target=lambda: kept.append(peer.borrow()))
        thread.start()
        thread.join()
    left = 0
    try:
        for _ in range(4):
            kept.append(peer.borrow())
            left += 1
    except Exception:
        pass
    return f"{left} of 4"


def fork(make: Callable[..., Peer], dsn: str) -> str:
    """A parent with an idle connection forks; all ask tagged questions at once."""
    peer = make(dsn, 1, timeout=2.0)
    peer.warm(1)
    readers = []
    for child in range(CHILDREN):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            signal.alarm(10)  # a child that hangs has its answers counted as missing
            os.write(writer, bytes([_wrong(peer, child + 1)]))
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    wrong = _wrong_in_time(peer)
    for reader in readers:
        told = os.read(reader, 1)
        wrong += told[0] if told else QUERIES
        os.close(reader)
    for _ in readers:
        os.wait()
    return f"{wrong} of {QUERIES * (CHILDREN + 1)}"


def _wrong_in_time(peer: Peer) -> int:
    """The parent's; it can hang too, when a child has read the answer it waits for."""
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(_wrong(peer, 0)), daemon=True)
    thread.start()
    thread.join(10)
    return told[0] if told else QUERIES


def _wrong(peer: Peer, tag: int) -> int:
    """How many of the tagged questions got a wrong answer or none."""
    wrong = 0
    for number in range(QUERIES):
        try:
            conn = peer.borrow()
            (answer,) = conn.execute("SELECT %s::int", [tag * 1000 + number]).fetchone()
            peer.give(conn)
        except Exception:
            wrong += QUERIES - number
            break
        wrong += answer != tag * 1000 + number
    return wrong


def names_the_holder(make: Callable[..., Peer], dsn: str) -> str:
    """Does the timeout say which thread has the connection?"""
    peer = make(dsn, 1, timeout=0.5)
    kept: list[Any] = []
    done = threading.Event()

    def hold() -> None:
        kept.append(peer.borrow())
        done.set()
        released.wait()

    released = threading.Event()
    thread = threading.Thread(target=hold, name="the-culprit")
    thread.start()
    done.wait()
    try:
        peer.borrow()
    except Exception as error:
        told = "yes" if "the-culprit" in str(error) else "no"
    released.set()
    thread.join()
    return told


class Site:
    """A database of a Django project: one backend, `max_size` 4, 2 s of patience."""

    def __init__(self, engine: str, cluster: Cluster, **options: Any) -> None:
        from django.db import connections

        self.alias = f"{'ours' if 'connpool' in engine else 'theirs'}_{next(_numbers)}"
        pool = {"min_size": 1, "max_size": 4, "timeout": 2}
        place = {**connections.settings["default"], "NAME": "postgres", "HOST": cluster.socket_dir}
        options = {"pool": pool, "application_name": self.alias, **options}
        connections.settings[self.alias] = {**place, "ENGINE": engine, "OPTIONS": options}

    def ask(self, query: str, *args: Any) -> Any:
        from django.db import connections

        with connections[self.alias].cursor() as cursor:
            cursor.execute(query, args)
            return cursor.fetchone()[0]

    def close(self) -> None:
        from django.db import connections

        connections[self.alias].close()

    def succeeds(self) -> bool:
        try:
            return bool(self.ask("SELECT 1"))
        except Exception:
            return False

    def left(self) -> int:
        """How many of four threads at the same time can query."""
        together, done = threading.Barrier(4), []

        def work() -> None:
            done.append(self.succeeds())
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(5)
            self.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done)


def assume_role(engine: str, cluster: Cluster) -> str:
    """Does the first query of a database with `assume_role` succeed within 2 s?"""
    site = Site(engine, cluster, assume_role="postgres")
    return "yes" if site.succeeds() else "no"


def threads_of_a_view(engine: str, cluster: Cluster) -> str:
    """Threads that query by Django and end, as those of an executor; what is left?"""
    site = Site(engine, cluster)
    for _ in range(4):
        thread = threading.Thread(target=site.succeeds)
        thread.start()
        thread.join()
    return f"{site.left()} of 4"


def streams(engine: str, cluster: Cluster) -> str:
    """Of ten open streams that query for each part, how many got their first?"""
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory, override_settings
    from django.urls import path

    site = Site(engine, cluster)
    Streams.site = site
    ours = ["django_connpool.middleware.ConnectionPoolMiddleware"] if "connpool" in engine else []
    stop, begun, bodies = threading.Event(), [], threading.Barrier(11)

    def serve() -> None:
        response = None
        try:
            environ = RequestFactory()._base_environ(PATH_INFO="/")
            environ["wsgi.errors"] = io.StringIO()
            response = WSGIHandler()(environ, lambda *_: None)
            next(iter(response))
            begun.append(True)
        except Exception:
            pass
        bodies.wait(60)
        stop.wait(60)
        if response is not None:
            response.close()
        site.close()

    urls = (path("", Streams.view),)
    with override_settings(MIDDLEWARE=ours, ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"]):
        threads = [threading.Thread(target=serve) for _ in range(10)]
        for thread in threads:
            thread.start()
        bodies.wait(60)
        stop.set()
        for thread in threads:
            thread.join()
    return f"{len(begun)} of 10"


class Streams:
    """The only view there is: a stream that never ends."""

    site: Site

    @classmethod
    def view(cls, request: Any) -> Any:
        from django.http import StreamingHttpResponse

        def parts() -> Iterator[str]:
            while True:
                yield str(cls.site.ask("SELECT 1"))

        return StreamingHttpResponse(parts())


def dies_in_hand(engine: str, cluster: Cluster) -> str:
    """A loop outside of requests whose connection dies: how many of 20 turns fail?"""
    site = Site(engine, cluster)
    cluster.terminate(int(site.ask("SELECT pg_backend_pid()")))
    return f"{sum(not site.succeeds() for _ in range(20))} of 20"


def tasks(engine: str, cluster: Cluster) -> str:
    """Connections opened for 50 tasks, with what Celery's Django support does after each."""
    from django.db import connections

    site = Site(engine, cluster)
    pids = set()
    celery: dict[str, Any] = {"__name__": "celery.fixups.django"}  # our engine looks who asks
    exec("def close_database(conn): conn.close(); conn.close_pool()", celery)
    for _ in range(50):
        pids.add(site.ask("SELECT pg_backend_pid()"))
        celery["close_database"](connections[site.alias])
    return str(len(pids))


def main() -> None:
    quiet()
    rows: list[list[str]] = []
    with Cluster() as cluster:
        dsn = cluster.dsn(host=cluster.socket_dir)
        for title, scene in {
            "slots left after 4 threads ended without giving back": dead_threads,
            "wrong or missing answers after a fork": fork,
            "the timeout names the holder": names_the_holder,
        }.items():
            rows.append([title, *[scene(make, dsn) for make in MAKERS]])
        settings.configure(DATABASES={"default": cluster.django()}, USE_TZ=True, SECRET_KEY="x")
        django.setup()
        engines = ("django.db.backends.postgresql", "django_connpool.backends.postgresql")
        for title, django_scene in {
            "Django: can query after 4 threads queried and ended": threads_of_a_view,
            "Django: streams served of 10 open ones that query, with 4 connections": streams,
            "Django: turns of a loop that fail after its connection died": dies_in_hand,
            "Celery: connections opened for 50 tasks of a prefork child": tasks,
            "Django: assume_role works with a pool": assume_role,
        }.items():
            rows.append([title, *[django_scene(engine, cluster) for engine in engines]])
        table("faults", ["", "Django's pool", "django_connpool"], rows)
        sys.stdout.flush()
    # psycopg_pool's threads would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
