"""The sample shop behind the servers that people use, and asked by poolstatus meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.processes import TESTPROJECT, Served
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

Environ = Callable[..., dict[str, str]]
SLOW = "/products/{}/delivery/"


@contextmanager
def busy(served: Served, threads: int = 8) -> Iterator[list[str]]:
    """Ask for a slow page again and again meanwhile; yields the answers so far."""
    slug = json.loads(served.get("/api/products/"))["products"][0]["slug"]
    stop = threading.Event()
    answers: list[str] = []
    errors: list[BaseException] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(served.get(SLOW.format(slug)))
            except BaseException as error:
                errors.append(error)
                return

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield answers
    finally:
        stop.set()
        for worker in workers:
            worker.join(processes.SECONDS)
    assert errors == []


def gunicorn(port: int, *options: str) -> list[str]:
    # The settings of the shop say gthread, 2 workers.
    return ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "4", *options]


def poolstatus(environ: dict[str, str]) -> Any:
    done = processes.run(TESTPROJECT, "manage.py", "poolstatus", "--format", "json", **environ)
    return json.loads(done.stdout)


def ends(served: Served, server: Server, name: str) -> None:
    served.terminate()
    wait_until(lambda: server.backends(dbname=name) == 0, "nothing is left on the server")


def test_poolstatus_shows_both_gunicorn_workers_while_they_serve(
    shop: str, shop_environ: Environ, cluster: Server
) -> None:
    environ = shop_environ(max_size=2, min_size=1)
    port = processes.free_port()
    with processes.serving(TESTPROJECT, port, *gunicorn(port), **environ) as served:
        most = 0
        found: Any = {}

        def seen() -> bool:
            nonlocal most, found
            most = max(most, cluster.backends(dbname=shop))
            found = poolstatus(environ)
            pools = [pool for process in found["processes"] for pool in process["pools"]]
            loans = [loan for pool in pools for loan in pool["loans"]]
            return len(pools) == 2 and any("delivery" in (loan["note"] or "") for loan in loans)

        with busy(served) as answers:
            wait_until(seen, "two pools and a loan for a slow request")
            wait_until(lambda: len(answers) > 50, "requests are served")

        # Its own question to the server comes from a connection beside the pools.
        assert most <= 2 * 2 + 1
        for process in found["processes"]:
            assert process["pid"] != served.process.pid
            (pool,) = process["pools"]
            assert (pool["alias"], pool["max_size"], pool["min_size"]) == ("default", 2, 1)
            assert pool["size"] <= 2
        assert found["server"]
        ends(served, cluster, shop)
    assert poolstatus(environ)["processes"] == []


def test_gunicorn_that_preloads_the_application_serves_from_its_workers(
    shop: str, shop_environ: Environ, cluster: Server
) -> None:
    environ = shop_environ(max_size=2, min_size=1)
    port = processes.free_port()
    command = gunicorn(port, "--preload")
    with processes.serving(TESTPROJECT, port, *command, **environ) as served:
        with busy(served) as answers:
            wait_until(lambda: len(answers) > 50, "requests are served")
            pids = {process["pid"] for process in poolstatus(environ)["processes"]}
        # The master only loads: it has no pool to tell of.
        assert len(pids) == 2
        assert served.process.pid not in pids
        ends(served, cluster, shop)


def test_uvicorn_serves_sync_and_async_views_and_streams(
    shop: str, shop_environ: Environ, cluster: Server
) -> None:
    environ = shop_environ(max_size=3)
    port = processes.free_port()
    command = ["-m", "uvicorn", "testproject.asgi:application", "--port", str(port)]
    with processes.serving(TESTPROJECT, port, *command, **environ) as served:
        with busy(served) as answers:
            for _ in range(5):
                summary = json.loads(served.get("/summary/"))
                assert len(served.get("/export/products.csv").splitlines()) > summary["products"]
                assert cluster.backends(dbname=shop) <= 3
            wait_until(lambda: len(answers) > 20, "requests are served")
        (process,) = poolstatus(environ)["processes"]
        (pool,) = process["pools"]
        assert (pool["in_use"], pool["loans"]) == (0, [])
        assert pool["stats"]["loans_reclaimed"] == 0
        ends(served, cluster, shop)


def test_workers_that_are_killed_leave_nothing_and_are_replaced(
    shop: str, shop_environ: Environ, cluster: Server
) -> None:
    environ = shop_environ(max_size=2)
    port = processes.free_port()
    with processes.serving(TESTPROJECT, port, *gunicorn(port), **environ) as served:
        victims: set[int] = set()

        def both_serve() -> bool:
            for _ in range(20):
                served.get("/")
            victims.update(process["pid"] for process in poolstatus(environ)["processes"])
            return len(victims) == 2

        wait_until(both_serve, "the second worker has begun to serve")
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: cluster.backends(dbname=shop) == 0, "the server notices")
        served.get("/")
        assert victims.isdisjoint(process["pid"] for process in poolstatus(environ)["processes"])
        ends(served, cluster, shop)
