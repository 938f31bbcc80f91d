"""Real Celery workers on the tiny project: tasks give back, and the pool outlives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import scratch
from tests.cluster import Server
from tests.e2e import celery_site, processes
from tests.e2e.conftest import TINY
from tests.testproject.processes import wait_until

pytest.importorskip("celery")

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]
TASKS = 1000
SEND = f"""
import tiny.celery
from tiny.tasks import note
for number in range({TASKS}):
    note.delay(number)
"""


def environment(environ: dict[str, str], project: Path) -> dict[str, str]:
    broker = celery_site.add(project)
    status = scratch.folder() / "celery"
    status.mkdir(mode=0o700, exist_ok=True)
    return {**environ, "TINY_BROKER": str(broker), "CONNPOOL_STATUS_DIR": str(status)}


def table(server: Server) -> Callable[[str], list[tuple[Any, ...]]]:
    """Make the table in which tasks tell where they ran; returns a function to ask it."""
    import psycopg

    def ask(query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(server.dsn(dbname=TINY, application_name="tests")) as conn:
            cursor = conn.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    ask("CREATE TABLE done (number int, process int, backend int, lent bool, named bool)")
    return ask


def pools(project: Path, environ: dict[str, str], pids: set[int]) -> list[dict[str, Any]]:
    done = processes.run(project, "manage.py", "poolstatus", "--format", "json", **environ)
    found = json.loads(done.stdout)["processes"]
    return [pool for process in found if process["pid"] in pids for pool in process["pools"]]


@pytest.mark.parametrize(
    ("kind", "size"), [("prefork", 1), ("threads", 3), ("gevent", 3), ("solo", 1)]
)
def test_a_thousand_tasks_open_no_more_connections_than_the_pool_has_places(
    project: Path, tiny_environ: Environ, cluster: Server, kind: str, size: int
) -> None:
    environ = environment(tiny_environ(max_size=size), project)
    ask = table(cluster)
    processes.run(project, "-c", SEND, **environ)
    worker = ["-m", "celery", "-A", "tiny.celery", "worker", "--loglevel", "WARNING"]
    options = ["--pool", kind, "--concurrency", {"prefork": "2", "solo": "1"}.get(kind, "20")]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    most = 0

    def all_done() -> bool:
        nonlocal most
        most = max(most, cluster.backends(dbname=TINY))
        assert served.process.poll() is None, served.log()
        return ask("SELECT count(*) FROM done") == [(TASKS,)]

    with processes.running(project, *worker, *options, *quiet, **environ) as served:
        try:
            wait_until(all_done, "all tasks are done", 180)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{served.log()}") from error

        workers = 2 if kind == "prefork" else 1
        # The master of a prefork worker has a pool too, and the question before may still end.
        assert most <= (workers + (kind == "prefork")) * size + 1
        found = ask(
            "SELECT count(DISTINCT number), count(DISTINCT process), bool_or(lent), bool_and(named)"
            " FROM done"
        )
        assert found == [(TASKS, workers, False, True)]
        each = ask("SELECT count(DISTINCT backend) FROM done GROUP BY process")
        assert all(count <= size for (count,) in each), each

        pids = {pid for (pid,) in ask("SELECT DISTINCT process FROM done")}

        def is_whole() -> bool:
            return all(not pool["in_use"] for pool in pools(project, environ, pids))

        wait_until(is_whole, "nothing is on loan", 20)
        found_pools = pools(project, environ, pids)
        assert len(found_pools) == workers
        for pool in found_pools:
            assert pool["stats"]["connections_num"] <= size
            assert pool["stats"]["loans_reclaimed"] == 0
        served.terminate()
        wait_until(lambda: cluster.backends(dbname=TINY) == 0, "nothing is left", 15)
