"""What becomes of a pool when its borrowers misbehave: this one beside psycopg_pool.

psycopg_pool is what Django's own pool is made of; the last row asks Django's backend itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from bench.measure import table
from bench.peers import Ours, Peer, PsycopgPool, quiet
from tests.cluster import Cluster

MAKERS: tuple[type[Ours] | type[PsycopgPool], ...] = (PsycopgPool, Ours)
QUERIES = 150
CHILDREN = 3


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
    wrong = _wrong(peer, 0)
    for reader in readers:
        told = os.read(reader, 1)
        wrong += told[0] if told else QUERIES
        os.close(reader)
    for _ in readers:
        os.wait()
    return f"{wrong} of {QUERIES * (CHILDREN + 1)}"


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


def assume_role(engine: str, cluster: Cluster) -> str:
    """Does the first query of a database with `assume_role` succeed within 3 s?"""
    from django.db import connections

    alias = "ours" if "connpool" in engine else "theirs"
    options = {"assume_role": "postgres", "pool": {"min_size": 1, "max_size": 2, "timeout": 3}}
    place = {**connections.settings["default"], "NAME": "postgres", "HOST": cluster.socket_dir}
    connections.settings[alias] = {**place, "ENGINE": engine, "OPTIONS": options}
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT current_user")
        return "yes"
    except Exception as error:
        return f"no: {error}"


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
        settings.configure(DATABASES={"default": cluster.django()}, USE_TZ=True)
        django.setup()
        engines = ("django.db.backends.postgresql", "django_connpool.backends.postgresql")
        rows.append(
            [
                "assume_role works with a pool (Django's backend)",
                *[assume_role(engine, cluster) for engine in engines],
            ]
        )
        table("faults", ["", "Django's pool", "django_connpool"], rows)
        sys.stdout.flush()
    # psycopg_pool's threads would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
