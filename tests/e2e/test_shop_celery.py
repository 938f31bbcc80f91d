"""The sample shop's task: in the process that calls it, and in a Celery worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.processes import TESTPROJECT
from tests.testproject.processes import wait_until

pytest.importorskip("celery")

pytestmark = [pytest.mark.e2e, pytest.mark.ways]

Environ = Callable[..., dict[str, str]]
WORKER = ["-m", "celery", "-A", "testproject", "worker", "--loglevel", "INFO"]
QUIET = ["--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
LATER = ["manage.py", "restock", "--later", "--below", "1000000", "--units", "1"]


@pytest.fixture
def stock(cluster: Server, shop: str) -> Callable[[], int]:
    """A function that tells how much of all products there is."""

    def ask() -> int:
        with psycopg.connect(cluster.dsn(dbname=shop, application_name="tests")) as conn:
            (row,) = conn.execute("SELECT sum(stock) FROM shop_product").fetchall()
            return int(row[0])

    return ask


def test_without_a_broker_the_task_runs_where_it_is_called(
    shop_environ: Environ, stock: Callable[[], int]
) -> None:
    before = stock()
    done = processes.run(TESTPROJECT, *LATER, **shop_environ())
    assert done.stdout == "done here: there is no CELERY_BROKER_URL\n"
    assert done.stderr == ""
    assert stock() > before


def test_a_worker_finds_the_task(
    shop_environ: Environ, stock: Callable[[], int], tmp_path: Path
) -> None:
    folders = "data_folder_in", "data_folder_out", "control_folder"
    options = json.dumps({name: str(tmp_path) for name in folders})
    environ = {
        **shop_environ(max_size=1),
        "CELERY_BROKER_URL": "filesystem://localhost",
        "CELERY_BROKER_TRANSPORT_OPTIONS": options,
    }
    before = stock()
    done = processes.run(TESTPROJECT, *LATER, **environ)
    assert done.stdout == "handed over\n"
    assert stock() == before
    with processes.running(TESTPROJECT, *WORKER, *QUIET, **environ) as worker:

        def restocked() -> bool:
            assert worker.process.poll() is None, worker.log()
            return stock() > before

        wait_until(restocked, "the task is done")
        assert ". shop.tasks.restock" in worker.log()
        worker.terminate()
