"""Server processes that fork, stream and switch greenlets, asked tagged questions."""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import Server
from tests.e2e import processes, ways_site
from tests.e2e.conftest import TINY
from tests.e2e.processes import Served
from tests.testproject.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]

# What a user has in gunicorn.conf.py: nothing about the pool, and a loan out as workers fork.
HOLD = """
import django
from django.db import connection

def when_ready(server):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
"""


@contextmanager
def gunicorn(project: Path, environ: dict[str, str], *options: str) -> Iterator[Served]:
    port = processes.free_port()
    command = ["-m", "gunicorn", "wsgi:application", "--bind", f"127.0.0.1:{port}", *options]
    ways_site.add(project)
    with processes.serving(
        project, port, *command, **environ, DJANGO_SETTINGS_MODULE="ways"
    ) as served:
        yield served


def asked(served: Served, tag: int) -> str:
    return served.get(f"/sync/{tag}/")


def all_asked(served: Served, tags: range, at_once: int) -> None:
    """Each answer is that to the question asked, many at a time."""
    with ThreadPoolExecutor(at_once) as executor:
        assert list(executor.map(lambda tag: asked(served, tag), tags)) == [str(t) for t in tags]


@contextmanager
def counted(server: Server) -> Iterator[list[int]]:
    """How many connections the server has had at most, meanwhile."""
    most, stop = [0], threading.Event()

    def count() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], server.backends(dbname=TINY))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def nothing_is_left(server: Server) -> None:
    wait_until(lambda: server.backends(dbname=TINY) == 0, "nothing is left on the server", 20)


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_workers_of_a_preloaded_application_that_held_a_connection_share_nothing(
    project: Path, tiny_environ: Environ, cluster: Server, kind: str
) -> None:
    (project / "gunicorn.conf.py").write_text(HOLD)
    options = ["--preload", "--worker-class", kind, "--workers", "3", "--threads", "2"]
    with gunicorn(project, tiny_environ(max_size=2, min_size=1), *options) as served:
        all_asked(served, range(300), 8)
        # A worker that dies takes nothing with it, and is forked again while others work.
        for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            victim = random.choice(psutil.Process(served.process.pid).children())
            victim.send_signal(end)
            all_asked_or_cut_off(served, range(100))
            wait_until(
                lambda: len(psutil.Process(served.process.pid).children()) == 3, "three again", 30
            )
        all_asked(served, range(100), 8)
        assert cluster.backends(dbname=TINY) <= 3 * 2 + 1
        served.terminate()
        nothing_is_left(cluster)


def all_asked_or_cut_off(served: Served, tags: range) -> None:
    """As `all_asked`, but a worker that is killed answers nobody any more."""
    with ThreadPoolExecutor(4) as executor:
        for done, tag in [(executor.submit(asked, served, tag), tag) for tag in tags]:
            try:
                assert done.result() == str(tag)
            except (AssertionError, OSError) as error:
                assert "500" not in str(error).splitlines()[0], error


def test_recycled_workers_leave_the_server_as_it_was(
    project: Path, tiny_environ: Environ, make_cluster: Any, cluster: Server
) -> None:
    options = ["--workers", "2", "--max-requests", "5", "--worker-class", "gthread"]
    with gunicorn(project, tiny_environ(max_size=2), *options) as served:
        with counted(cluster) as most:
            for tag in range(60):
                all_asked_or_cut_off(served, range(tag, tag + 1))
        # One that ends is replaced before it is gone.
        assert most[0] <= 2 * 2 * 2
        served.terminate()
        nothing_is_left(cluster)


def test_five_hundred_greenlets_on_ten_connections(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    pytest.importorskip("gevent")
    options = ["--worker-class", "gevent", "--workers", "1", "--worker-connections", "1000"]
    with (
        gunicorn(project, tiny_environ(max_size=10, timeout=60), *options) as served,
        counted(cluster) as most,
    ):
        leavers = [leave(served, f"/sync/{tag}/") for tag in range(100)]
        all_asked(served, range(500), 500)
        for leaver in leavers:
            leaver.close()
        all_asked(served, range(100), 50)
        assert most[0] <= 10
        served.terminate()
        nothing_is_left(cluster)


def leave(served: Served, path: str) -> socket.socket:
    """Ask, and do not wait for the answer."""
    client = socket.create_connection(("127.0.0.1", served.port), 60)
    client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    return client


def test_two_hundred_open_streams_leave_four_connections_to_the_others(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    options = ["--worker-class", "gthread", "--threads", "220", "--workers", "1"]
    environ = tiny_environ(max_size=4, timeout=20)
    with gunicorn(project, environ, *options) as served, counted(cluster) as most:
        streams = [leave(served, "/idle_stream/?times=600") for _ in range(200)]
        for stream in streams:
            read_until(stream, b"still here")
        all_asked(served, range(200), 12)
        assert most[0] <= 4
        for stream in streams:
            stream.close()


def test_a_body_with_a_server_side_cursor_that_is_left_in_the_middle_leaves_nothing(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    options = ["--worker-class", "gthread", "--threads", "16", "--workers", "1"]
    with gunicorn(project, tiny_environ(max_size=3, timeout=20), *options) as served:
        served.get("/fill/")
        for _ in range(12):
            client = leave(served, "/rows/")
            read_until(client, b"xxx")
            client.close()
        assert served.get("/rows/").count("\n") == 2000

        def is_whole() -> bool:
            return '"in_use": 0' in served.get("/status/")

        wait_until(is_whole, "nothing is on loan", 20)
        ((open_,),) = cluster.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state <> 'idle'", [TINY]
        )
        assert open_ == 0
        served.terminate()
        nothing_is_left(cluster)


def read_until(client: socket.socket, text: bytes) -> None:
    seen = b""
    while text not in seen:
        part = client.recv(65536)
        assert part, seen
        seen += part


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("end", ["os._exit(0)", "1 / 0", "os.kill(os.getpid(), 9)", "sys.exit(3)"])
def test_a_parent_is_unharmed_however_a_child_of_multiprocessing_ends(
    project: Path, tiny_environ: Environ, cluster: Server, method: str, end: str
) -> None:
    (project / "children.py").write_text(CHILDREN.format(method=method, end=end))
    environ = {**tiny_environ(max_size=3), "DJANGO_SETTINGS_MODULE": "settings"}
    done = processes.run(project, "children.py", **environ)
    assert "right" in done.stdout, done.stderr
    nothing_is_left(cluster)


CHILDREN = """
import multiprocessing, os, sys, threading
import django
django.setup()
from django.db import connection

def ask(times, base):
    backends = set()
    for number in range(base, base + times):
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::int, pg_backend_pid()", [number])
            answer, backend = cursor.fetchone()
        assert answer == number
        backends.add(backend)
        if number % 10 == 0:
            connection.close()
    return backends

def child(base, pipe):
    pipe.send(ask(60, base))
    {end}

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    go_on = threading.Event()

    def hold():
        ask(5, 1)
        go_on.wait()
        held.append(ask(50, 1))

    held = []
    holder = threading.Thread(target=hold)
    holder.start()
    mine = ask(15, 1)
    pipes, children = [], []
    for base in (10_000, 20_000, 30_000):
        receiver, sender = context.Pipe(False)
        process = context.Process(target=child, args=(base, sender))
        process.start()
        sender.close()
        pipes.append(receiver)
        children.append(process)
    go_on.set()
    for round in range(20):
        mine |= ask(30, round * 100)
    theirs = [pipe.recv() for pipe in pipes]
    for process in children:
        process.join()
    mine |= ask(30, 5000)
    holder.join()
    everybody = [mine | held[0], *theirs]
    assert len(set.union(*everybody)) == sum(map(len, everybody)), everybody
    assert connection.pool.get_stats()["connections_lost"] == 0
    print("right")
"""
