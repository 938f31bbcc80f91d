"""`live`, `ready`, `status.json` and `metrics`: what programs are told, and what that costs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import django
import pytest
from django.http import HttpResponse
from django.test import Client

from django_connpool import registry, signals
from django_connpool.status import server
from django_connpool.status.directory import socket_path
from django_connpool.web import page, probes
from tests.cluster import Cluster
from tests.databases import Databases, pid
from tests.status.samples import answering, process
from tests.web.helpers import everything_on_loan, somebody_waiting

Get = Callable[..., Any]
PROBES = ("live", "ready", "status.json", "metrics", "")


@contextmanager
def nothing_is_opened() -> Iterator[None]:
    """A block in which no pool opens a connection, and nobody borrows one."""
    opened: list[object] = []

    def note(**kwargs: object) -> None:
        opened.append(kwargs)

    def borrows() -> dict[str, int]:
        return {pool.name: pool.get_stats()["requests_num"] for _, pool in registry.live()}

    before = borrows()
    signals.connecting.connect(note)
    try:
        yield
    finally:
        signals.connecting.disconnect(note)
    assert opened == []
    # (The first request makes the pools that the middleware warms.)
    assert {
        name: number for name, number in borrows().items() if number != before.get(name, 0)
    } == {}


def test_a_pool_that_serves_is_ready(spare: Any, get: Get) -> None:
    pid(spare)
    answer = get("/pool/ready?pool=spare")
    assert (answer.status_code, answer.content) == (200, b"ready\n")


def test_anybody_may_ask_whether_it_lives_and_is_ready(spare: Any) -> None:
    for path in ("/pool/live", "/pool/ready?pool=spare"):
        assert Client().get(path).status_code == 200
        assert Client().head(path).status_code == 200
        assert Client().post(path).status_code == 405


@pytest.mark.parametrize("path", PROBES)
def test_what_is_told_is_kept_by_no_cache(spare: Any, get: Get, path: str) -> None:
    assert "no-store" in get(f"/pool/{path}")["Cache-Control"]


@pytest.mark.parametrize("view", [probes.live, probes.ready, probes.status, page.page, page.asset])
def test_no_view_begins_a_transaction_in_any_database(databases: Databases, view: Any) -> None:
    databases.add("added", ATOMIC_REQUESTS=True)
    handler: Any = Client().handler
    assert handler.make_view_atomic(view) is view


def test_somebody_who_waits_too_long_is_told_as_busy(spare: Any, get: Get, settings: Any) -> None:
    settings.CONNPOOL_BUSY_AFTER = 0
    with somebody_waiting(spare):
        answer = get("/pool/ready?pool=spare")
    assert answer.status_code == 503
    assert answer.content.startswith(b"spare: busy: somebody has waited ")
    assert b"2 of 2 are in use" in answer.content


def test_loans_that_are_all_old_are_told_as_stuck(spare: Any, get: Get, settings: Any) -> None:
    settings.CONNPOOL_STUCK_AFTER = 0
    pid(spare)
    assert get("/pool/ready?pool=spare").status_code == 200  # one place is free
    assert get("/pool/ready?pool=spaer").status_code == 404  # a typing error is not ready for ever
    with everything_on_loan(spare):
        answer = get("/pool/ready?pool=spare")
    assert answer.status_code == 503
    assert b"spare: stuck: all 2 connections have been on loan" in answer.content


def test_a_server_that_is_gone_is_told_as_down_without_what_it_said(
    databases: Databases, throwaway_cluster: Cluster, get: Get
) -> None:
    pool = {"outage_patience": 0, "timeout": 5}
    spare = databases.add(server=throwaway_cluster, pool=pool)
    throwaway_cluster.stop()
    with pytest.raises(Exception, match="connection"):
        spare.ensure_connection()
    answer = get("/pool/ready?pool=spare")
    assert answer.status_code == 503
    assert b"spare: down: connecting has failed for" in answer.content
    assert b"socket" not in answer.content
    seen = spare.pool.snapshot()
    assert seen["last_error"] and seen["events"][0]["text"].startswith("connecting failed: ")


def test_a_failure_is_believed_for_so_long_only(
    databases: Databases, throwaway_cluster: Cluster, get: Get, settings: Any
) -> None:
    spare = databases.add(server=throwaway_cluster, pool={"outage_patience": 0})
    throwaway_cluster.stop()
    with pytest.raises(Exception, match="connection"):
        spare.ensure_connection()
    settings.CONNPOOL_DOWN_FOR = 0
    # Nobody would send it a request, and nothing else would have it try again.
    assert get("/pool/ready?pool=spare").status_code == 200


def test_one_database_that_is_in_trouble_is_no_matter_for_another(
    spare: Any, get: Get, settings: Any, databases: Databases
) -> None:
    settings.CONNPOOL_STUCK_AFTER = 0
    databases.add("well")
    with everything_on_loan(spare):
        assert get("/pool/ready?pool=well").status_code == 200
        assert get("/pool/ready?pool=well&pool=spare").status_code == 503


def test_all_answer_while_everything_is_on_loan_and_the_server_is_gone(
    databases: Databases, throwaway_cluster: Cluster, get: Get, settings: Any
) -> None:
    spare = databases.add(server=throwaway_cluster, pool={"max_size": 2})
    settings.CONNPOOL_STUCK_AFTER = 0
    with everything_on_loan(spare):
        throwaway_cluster.stop(mode="immediate")
        with nothing_is_opened():
            assert get("/pool/live").status_code == 200
            assert get("/pool/ready?pool=spare").status_code == 503
            assert get("/pool/status.json").status_code == 200
            assert get("/pool/").status_code == 200


def test_looking_makes_no_pool(databases: Databases, get: Get, settings: Any) -> None:
    databases.add("never")
    settings.MIDDLEWARE = settings.MIDDLEWARE[1:]  # ours makes those of a process that serves
    for path in PROBES:
        get(f"/pool/{path}")
    assert "never" not in [alias for aliases, _ in registry.live() for alias in aliases]


def test_status_is_the_document_of_this_process(spare: Any, get: Get) -> None:
    with spare.pool.connection() as conn:
        conn.execute("SELECT 'secret'")
        backend = conn.info.backend_pid
        found = get("/pool/status.json").json()
    (process,) = found["processes"]
    (pool,) = [pool for pool in process["pools"] if pool["alias"] == "spare"]
    (loan,) = pool["loans"]
    assert loan["backend_pid"] == backend
    assert loan["statement"] == "SELECT ?"
    assert pool["history"][-1][1] == 1  # in use, at this moment


def test_status_of_the_host_asks_the_other_processes(spare: Any, get: Get, status_dir: Any) -> None:
    server.start()
    with answering(socket_path(status_dir, 1), process(pid=1, host="another")):
        found = get("/pool/status.json?scope=host").json()
    assert [process["host"] for process in found["processes"]][1:] == ["another"]
    assert found["processes"][0]["pid"] == os.getpid()
    assert get("/pool/status.json?scope=world").status_code == 400


def test_a_probe_that_says_no_is_no_error_in_the_log(
    spare: Any, get: Get, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CONNPOOL_STUCK_AFTER = 0
    with everything_on_loan(spare):
        assert get("/pool/ready?pool=spare").status_code == 503
    assert [record for record in caplog.records if record.name == "django.request"] == []


@pytest.mark.skipif(django.VERSION < (5, 1), reason="the middleware came with Django 5.1")
def test_who_must_log_in_to_all_of_the_site_need_not_for_a_probe(settings: Any, get: Get) -> None:
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, required]
    for path in ("live", "ready?pool=default", "status.json", "page.css", ""):
        assert get(f"/pool/{path}").status_code == 200
    assert Client().get("/pool/status.json").status_code == 403


def test_metrics_are_what_the_collector_says(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = ModuleType(probes.COLLECTOR)
    stub.metrics = lambda request: HttpResponse("db_client_connection_count 1")
    monkeypatch.setitem(sys.modules, "prometheus_client", ModuleType("prometheus_client"))
    monkeypatch.setitem(sys.modules, probes.COLLECTOR, stub)
    assert get("/pool/metrics").content == b"db_client_connection_count 1"


@pytest.mark.parametrize("missing", ["prometheus_client", probes.COLLECTOR])
def test_metrics_that_are_not_there_say_what_to_install(
    get: Get, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", ModuleType("prometheus_client"))
    monkeypatch.setitem(sys.modules, probes.COLLECTOR, ModuleType(probes.COLLECTOR))
    monkeypatch.setitem(sys.modules, missing, None)
    answer = get("/pool/metrics")
    assert answer.status_code == 404
    assert b"pip install 'django-connpool[metrics]'" in answer.content
