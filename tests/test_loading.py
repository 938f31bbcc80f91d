"""A process that has loaded the application, and may be about to fork those that will serve."""

from __future__ import annotations

import json
from typing import Any

from tests import scratch
from tests.cluster import Server
from tests.e2e import processes

# Each prints what there is of it after each step.
COMMON = """
import io, json, os, sys, threading, time

def seen():
    give_up = time.monotonic() + 10
    while len(threading.enumerate()) > 2 and time.monotonic() < give_up:
        time.sleep(0.01)  # one that opens connections, or asks the server, has done so and ends
    folder = os.environ["CONNPOOL_STATUS_DIR"]
    sockets = [fd for fd in os.listdir("/proc/self/fd") if is_socket(fd)]
    return {
        "threads": len(threading.enumerate()),
        "sockets": len(sockets),
        "asked": any(name.startswith(f"{os.getpid()}-") for name in os.listdir(folder)),
    }

def is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False

found = []
"""

LOAD = """
from testproject.wsgi import application
from testproject import asgi
from django.core.management import call_command
from django.db import connection
import django_connpool

call_command("check", stdout=sys.stderr)
assert django_connpool.pools["default"] is connection.pool
found.append(seen())
"""

QUERY = """
connection.ensure_connection()
found.append(seen())
"""

SERVE = """
from django.test import RequestFactory

environ = RequestFactory()._base_environ(PATH_INFO="/nowhere/")
environ["wsgi.errors"] = io.StringIO()
environ["HTTP_HOST"] = "localhost"
b"".join(application(environ, lambda *args: None))
import time
give_up = time.monotonic() + 30
while connection.pool.snapshot()["idle"] < 2 and time.monotonic() < give_up:
    time.sleep(0.01)
found.append(seen())
"""

# Two children, forked by a thread while another one is there.
FORK = """
import multiprocessing

def ask(pipe):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pipe.send(cursor.fetchone()[0])

def fork():
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        receiver, sender = context.Pipe(False)
        child = context.Process(target=ask, args=(sender,))
        child.start()
        backends.append(receiver.recv())
        child.join(30)
        assert child.exitcode == 0, child.exitcode

backends = []
thread = threading.Thread(target=fork)
thread.start()
thread.join(60)
assert len(set(backends)) == 2, backends
found.append(seen())
"""


def steps(server: Server, name: str, *scripts: str, **pool: Any) -> list[dict[str, Any]]:
    status = scratch.folder() / "load"
    status.mkdir(mode=0o700, exist_ok=True)
    url = server.url(application_name=name, **{f"pool_{key}": item for key, item in pool.items()})
    script = "\n".join((COMMON, *scripts, "print(json.dumps(found))"))
    done = processes.run(
        processes.TESTPROJECT,
        "-W",
        "error",
        "-W",
        "ignore:This process:DeprecationWarning",  # of forking with a thread
        "-c",
        script,
        DEBUG="on",
        DATABASE_URL=url,
        CONNPOOL_STATUS_DIR=str(status),
        DJANGO_SETTINGS_MODULE="testproject.settings",
    )
    return list(json.loads(done.stdout))


NOTHING = {"threads": 1, "sockets": 0, "asked": False}


def test_nothing_but_its_first_loan_brings_a_thread_and_sockets(cluster: Server) -> None:
    before, after = steps(cluster, "loading-loan", LOAD, QUERY)

    assert before == NOTHING
    # A duplicate of the connection's socket, and those on which it answers and takes commands.
    assert after == {"threads": 2, "sockets": 4, "asked": True}


def test_nothing_before_its_first_request_opens_the_minimum(cluster: Server) -> None:
    before, after = steps(cluster, "loading-min", LOAD, SERVE, min_size=2)

    assert before == NOTHING
    assert after == {"threads": 2, "sockets": 6, "asked": True}


def test_children_of_a_thread_of_it_have_their_own_and_leave_it_as_it_was(cluster: Server) -> None:
    assert steps(cluster, "loading-fork", LOAD, FORK, min_size=2) == [NOTHING, NOTHING]
