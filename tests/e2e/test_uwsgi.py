"""uWSGI, which loads the application in one process and forks its workers, and tells no Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests import scratch
from tests.cluster import Server
from tests.e2e import processes, ways_site
from tests.e2e.conftest import TINY
from tests.e2e.processes import Served
from tests.testproject.processes import wait_until

pytest.importorskip("pyuwsgi")

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]
RUN = "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"

# What people do after a fork, which may query. It takes the place of whatever hook there was.
HOOK = """
import uwsgi
from django.db import connection

def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

from wsgi import application
uwsgi.post_fork_hook = query
"""


@contextmanager
def serving(
    project: Path, environ: dict[str, str], options: str, module: str = "wsgi"
) -> Iterator[Served]:
    port = processes.free_port()
    ways_site.add(project)
    status = scratch.folder() / "uwsgi"
    status.mkdir(mode=0o700, exist_ok=True)
    command = ["-c", RUN, "--http-socket", f"127.0.0.1:{port}", "--module", f"{module}:application"]
    with processes.serving(
        project,
        port,
        *command,
        "--need-app",
        "--die-on-term",
        *options.split(),
        **environ,
        CONNPOOL_STATUS_DIR=str(status),
    ) as served:
        yield served


def all_asked(served: Served, tags: range, at_once: int = 4) -> None:
    with ThreadPoolExecutor(at_once) as executor:
        answers = executor.map(lambda tag: served.get(f"/sync/{tag}/"), tags)
        assert list(answers) == [str(tag) for tag in tags]


def pools(project: Path, environ: dict[str, str]) -> dict[int, dict[str, Any]]:
    status = str(scratch.folder() / "uwsgi")
    arguments = ["manage.py", "poolstatus", "--format", "json"]
    done = processes.run(project, *arguments, **environ, CONNPOOL_STATUS_DIR=status)
    found = json.loads(done.stdout)["processes"]
    # That command is one of them: it loads the project too.
    served = [process for process in found if "poolstatus" not in process["command"]]
    return {process["pid"]: process["pools"][0] for process in served}


def nothing_is_left(served: Served, server: Server) -> None:
    served.terminate()
    wait_until(lambda: server.backends(dbname=TINY) == 0, "nothing is left on the server", 20)


# The tiny project queries as it is loaded.
@pytest.mark.parametrize(
    "options",
    [
        "",
        "--processes 2",
        "--master --processes 2",
        "--master --processes 2 --enable-threads",
        "--master --processes 2 --threads 4",
        "--master --processes 2 --lazy-apps",
        "--master --processes 2 --threads 4 --py-call-uwsgi-fork-hooks",
        "--master --processes 3 --cheaper 1 --cheaper-initial 1",
        "--master --processes 2 --max-requests 7",
    ],
)
def test_its_workers_answer_and_share_nothing(
    project: Path, tiny_environ: Environ, cluster: Server, options: str
) -> None:
    environ = tiny_environ(max_size=2, min_size=2)
    with serving(project, environ, options) as served:
        all_asked(served, range(60))
        found = pools(project, environ)
        assert found
        for pool in found.values():
            # Or it has not been asked yet, and has queried as it was loaded.
            assert pool["size"] == 2 or pool["stats"]["requests_num"] == 1
            assert pool["stats"]["connections_lost"] == 0
        if "master" in options:
            assert served.process.pid not in found
        assert cluster.backends(dbname=TINY) <= 3 * 2
        if "--processes" not in options or "--master" in options:  # or nobody tells the second
            nothing_is_left(served, cluster)


@pytest.mark.parametrize("options", ["--enable-threads", "--threads 4"])
def test_a_worker_that_takes_too_long_is_killed_and_its_successor_serves(
    project: Path, tiny_environ: Environ, cluster: Server, options: str
) -> None:
    with serving(project, tiny_environ(max_size=2), f"--master --harakiri 2 {options}") as served:
        all_asked(served, range(10))

        def is_killed() -> bool:
            with suppress(OSError):  # on a busy machine also before it gets that far
                urlopen(f"http://127.0.0.1:{served.port}/slow/", timeout=30)
            return "HARAKIRI" in served.log()

        wait_until(is_killed, "it is killed")
        all_asked(served, range(40))
        # The connection of the killed one is the server's to notice, once the statement ends.
        assert cluster.backends(dbname=TINY) <= 3


def test_a_hook_of_the_projects_own_may_query(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    (project / "hooked.py").write_text(HOOK)
    options = "--master --processes 2"
    with serving(project, tiny_environ(max_size=2), options, "hooked") as served:
        all_asked(served, range(60))
        nothing_is_left(served, cluster)
