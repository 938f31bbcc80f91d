"""Processes that end, asked of a server that logs each client which leaves without a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e import celery_site, processes, ways_site
from tests.e2e.conftest import TINY
from tests.testproject.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]
SURPRISED = ("unexpected EOF", "could not receive data", "could not send data")
QUERY = "from tiny.ways import query; query()"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(log_min_messages="debug1", log_disconnections="on") as started:
        yield started


def says_goodbye(cluster: Cluster, start: int, least: int) -> None:
    """Wait for the end; nobody has left without a word since the log was so long."""
    wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left", 20)
    log = (cluster.folder / "log").read_text()[start:]
    assert ends(cluster, start) >= least
    assert [line for line in log.splitlines() if any(text in line for text in SURPRISED)] == []


def ends(cluster: Cluster, start: int) -> int:
    """How many sessions have ended since the log was so long."""
    return (cluster.folder / "log").read_text()[start:].count(f"database={TINY}")


def length(cluster: Cluster) -> int:
    return (cluster.folder / "log").stat().st_size


@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "stock"])
def test_a_command_warns_of_nothing_and_says_goodbye(
    project: Path, tiny_environ: Environ, cluster: Cluster, pool: bool
) -> None:
    ways_site.add(project)
    environ = tiny_environ(max_size=3)
    if not pool:
        entry = json.loads(environ["TINY_DATABASE"])
        entry["OPTIONS"].pop("pool")
        environ["TINY_DATABASE"] = json.dumps({**entry, "ENGINE": "django.db.backends.postgresql"})
    start = length(cluster)
    done = processes.run(project, "-W", "error", "manage.py", "shell", "-c", QUERY, **environ)
    assert done.stderr == ""
    if pool:
        says_goodbye(cluster, start, 1)


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorns_workers_say_goodbye_when_recycled_and_terminated(
    project: Path, tiny_environ: Environ, cluster: Cluster, kind: str
) -> None:
    ways_site.add(project)
    port = processes.free_port()
    command = ["-m", "gunicorn", "wsgi:application", "--bind", f"127.0.0.1:{port}"]
    options = ["--worker-class", kind, "--workers", "2", "--max-requests", "10"]
    # One place, so that no attempt to connect is under way at the end: exits do not wait for it.
    environ = {**tiny_environ(max_size=1), "DJANGO_SETTINGS_MODULE": "ways"}
    start = length(cluster)
    with processes.serving(project, port, *command, *options, **environ) as served:
        for lives in (1, 2, 3):  # one of the two gets ten of twenty requests, and is recycled
            with ThreadPoolExecutor(4) as executor:
                for done in [executor.submit(served.get, "/sync/1/") for _ in range(20)]:
                    with suppress(AssertionError, OSError):  # cut off by a worker that ends
                        done.result()
            wait_until(lambda lives=lives: ends(cluster, start) >= lives, "it is recycled", 30)
        served.terminate()
        says_goodbye(cluster, start, 3)


def test_uvicorn_says_goodbye(project: Path, tiny_environ: Environ, cluster: Cluster) -> None:
    ways_site.add(project)
    port = processes.free_port()
    command = ["-m", "uvicorn", "asgi:application", "--port", str(port), "--log-level", "warning"]
    environ = {**tiny_environ(max_size=4), "DJANGO_SETTINGS_MODULE": "ways"}
    start = length(cluster)
    with processes.serving(project, port, *command, **environ) as served:
        with ThreadPoolExecutor(4) as executor:
            for way in ("sync", "sensitive", "to_thread", "background"):
                list(executor.map(served.get, [f"/{way}/{tag}/" for tag in range(8)]))
        served.terminate()
        says_goodbye(cluster, start, 4)


@pytest.mark.parametrize("kind", ["prefork", "threads"])
def test_celerys_children_say_goodbye_when_recycled_and_terminated(
    project: Path, tiny_environ: Environ, cluster: Cluster, kind: str
) -> None:
    pytest.importorskip("celery")
    environ = {**tiny_environ(max_size=2), "TINY_BROKER": str(celery_site.add(project))}
    table = "CREATE TABLE done (number int, process int, backend int, lent bool, named bool)"
    processes.run(project, "-c", ASK.format(table), **environ)
    send = "from tiny.tasks import note\nfor number in range(100): note.delay(number)"
    processes.run(project, "-c", send, **environ)
    command = ["-m", "celery", "-A", "tiny.celery", "worker", "--loglevel", "WARNING"]
    options = ["--pool", kind, "--concurrency", "2", "--without-gossip", "--without-mingle"]
    recycled = ["--max-tasks-per-child", "10"] if kind == "prefork" else []
    start = length(cluster)
    with processes.running(project, *command, *options, *recycled, **environ) as served:

        def all_done() -> bool:
            asked = processes.run(project, "-c", ASK.format("SELECT count(*) FROM done"), **environ)
            return asked.stdout.strip() == "[(100,)]"

        wait_until(all_done, "all tasks are done", 60)
        served.terminate()
        says_goodbye(cluster, start, 10 if kind == "prefork" else 2)


ASK = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("{}")
    print(cursor.fetchall() if cursor.description else "")
"""
