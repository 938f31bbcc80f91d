"""A server told to end while one request has the only connection and another waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.conftest import TINY
from tests.e2e.processes import Served
from tests.testproject.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

Environ = Callable[..., dict[str, str]]
LOCK = 4711

FILES = {
    "holding.py": """
from settings import *
ROOT_URLCONF = "tiny.holding"
DEBUG = True
""",
    "wsgi.py": """
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
""",
    "asgi.py": """
from django.core.asgi import get_asgi_application
from django_connpool.contrib.asgi import saying_goodbye
application = saying_goodbye(get_asgi_application())
""",
    # With threads of its own, for uvicorn has one for all that is not async.
    "tiny/holding.py": f"""
from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpResponse
from django.urls import path

def ask(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return HttpResponse("served")

def held(request):
    return ask("SELECT pg_advisory_xact_lock({LOCK})")

def quick(request):
    return ask("SELECT 1")

async def held_async(request):
    return await sync_to_async(held, thread_sensitive=False)(request)

async def quick_async(request):
    return await sync_to_async(quick, thread_sensitive=False)(request)

urlpatterns = [
    path(f"{{view.__name__}}/", view) for view in (held, quick, held_async, quick_async)
]
""",
}

SERVERS = {
    "gunicorn": [
        *("-m", "gunicorn", "wsgi:application", "--worker-class", "gthread", "--threads", "4"),
        *("--graceful-timeout", "60", "--no-control-socket", "--bind", "127.0.0.1:{port}"),
    ],
    "uvicorn": ["-m", "uvicorn", "asgi:application", "--port", "{port}"],
}
NOTICED = {"gunicorn": "Handling signal: term", "uvicorn": "Shutting down"}
STATUS = {"gunicorn": {0}, "uvicorn": {0, -15}}  # uvicorn ends itself by the signal it got


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def serving(project: Path, kind: str, environ: dict[str, str]) -> Iterator[Served]:
    for name, text in FILES.items():
        (project / name).write_text(text.lstrip())
    port = processes.free_port()
    command = [part.format(port=port) for part in SERVERS[kind]]
    environ = {**environ, "DJANGO_SETTINGS_MODULE": "holding"}
    with processes.serving(project, port, *command, **environ) as served:
        yield served


def waiting(project: Path, environ: dict[str, str]) -> int:
    """How many wait for a connection, in all processes that serve."""
    done = processes.run(project, "manage.py", "poolstatus", "--format", "json", **environ)
    found: Any = json.loads(done.stdout)
    return sum(pool["waiting"] for process in found["processes"] for pool in process["pools"])


def test_what_is_on_loan_ends_who_waits_is_served_and_the_process_ends(
    project: Path, tiny_environ: Environ, cluster: Server, kind: str
) -> None:
    # Whoever waited for nothing would wait for longer than the test has time.
    environ = tiny_environ(max_size=1, timeout=600)
    suffix = "_async" if kind == "uvicorn" else ""
    with (
        psycopg.connect(cluster.dsn(dbname=TINY)) as holder,
        serving(project, kind, environ) as served,
        ThreadPoolExecutor(2) as executor,
    ):
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        first = executor.submit(served.get, f"/held{suffix}/")
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: cluster.execute(query) == [(1,)], "the first request holds")
        second = executor.submit(served.get, f"/quick{suffix}/")
        wait_until(lambda: waiting(project, environ) == 1, "the second waits for it", 60)
        served.process.terminate()
        wait_until(lambda: NOTICED[kind] in served.log(), "it has noticed", 60)
        holder.rollback()
        assert (first.result(60), second.result(60)) == ("served", "served")
        assert served.process.wait(60) in STATUS[kind], served.log()
        assert "Traceback" not in served.log()
    name = [TINY]
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    wait_until(lambda: cluster.execute(left, name) == [(0,)], "nothing is left on the server")


def test_an_end_is_not_delayed_by_what_is_idle_and_who_was_refused(
    project: Path, tiny_environ: Environ, cluster: Server, kind: str
) -> None:
    environ = tiny_environ(max_size=4, min_size=4, timeout=600, max_hold_idle=600)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    with serving(project, kind, environ) as served:
        assert served.get("/quick/") == "served"
        wait_until(lambda: cluster.execute(query, [TINY]) == [(4,)], "all are open")
        served.process.terminate()
        assert served.process.wait(60) in STATUS[kind], served.log()
        assert "Traceback" not in served.log()
    wait_until(lambda: cluster.execute(query, [TINY]) == [(0,)], "nothing is left on the server")
