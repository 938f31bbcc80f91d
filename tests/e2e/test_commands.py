"""Django's own commands on a project of a user: the test runner, one-off commands, runserver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.conftest import TINY
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

Environ = Callable[..., dict[str, str]]

COUNT = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    print("connections:", cursor.fetchone()[0])
"""


def databases(server: Server) -> list[str]:
    found = server.execute(
        "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1", [f"%{TINY}%"]
    )
    return [name for (name,) in found]


def passes(project: Path, environ: dict[str, str], *options: str) -> None:
    done = processes.run(project, "-W", "error", "manage.py", "test", *options, **environ)
    assert "Ran 12 tests" in done.stderr, done.stderr
    assert "OK" in done.stderr


def test_the_test_runner_uses_the_test_database_alone(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    passes(project, tiny_environ(max_size=3))

    assert databases(cluster) == [TINY]
    wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left")


def test_the_test_runner_works_in_parallel(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    passes(project, tiny_environ(max_size=3, min_size=1), "--parallel", "2")

    assert databases(cluster) == [TINY]


def test_the_test_runner_keeps_its_database_and_finds_it_again(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    for _ in range(2):
        passes(project, tiny_environ(), "--keepdb")
        assert databases(cluster) == [TINY, f"test_{TINY}"]

    wait_until(lambda: cluster.backends(dbname=f"test_{TINY}") == 0, "nothing is left")


def test_a_command_opens_one_connection_and_exits(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    done = processes.run(project, "manage.py", "shell", "-c", COUNT, **tiny_environ(min_size=4))

    assert "connections: 1" in done.stdout
    assert done.stderr == ""
    wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left")


def test_a_command_that_leaves_a_transaction_open_exits_too(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    leave = "from django.db import transaction as t; t.atomic().__enter__()" + COUNT
    done = processes.run(project, "manage.py", "shell", "-c", leave, **tiny_environ(min_size=4))

    assert "connections: 1" in done.stdout
    wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left")


def test_migrate_and_flush_work(project: Path, tiny_environ: Environ) -> None:
    environ = tiny_environ(max_size=2)
    processes.run(project, "manage.py", "migrate", "--run-syncdb", **environ)
    processes.run(project, "manage.py", "flush", "--no-input", **environ)


def test_runserver_reloads_and_leaves_nothing_on_the_server(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    port = processes.free_port()
    command = ["manage.py", "runserver", f"127.0.0.1:{port}"]
    environ = {**tiny_environ(min_size=1), "PYTHONUNBUFFERED": "1"}
    with processes.serving(project, port, *command, **environ) as served:
        first = json.loads(served.get("/"))["process"]

        def reloaded() -> bool:
            # Again and again: a change before the first look at the files is not seen.
            if "reloading" not in served.log():
                (project / "tiny" / "urls.py").touch()
            return served.log().count("Quit the server") == 2 and served.listens()

        wait_until(reloaded, "another process serves")
        assert json.loads(served.get("/"))["process"] != first
        served.terminate()
        wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left")
