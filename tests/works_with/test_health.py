"""django-health-check and django-watchman ask our checks, which ask the pool's memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.test import AsyncRequestFactory, Client
from django.urls import include, path

from tests.cluster import Cluster
from tests.databases import Databases
from tests.web.helpers import everything_on_loan

pytestmark = pytest.mark.works_with

try:
    urlpatterns = [path("watchman/", include("watchman.urls"))]
except ImportError:  # its tests are skipped
    urlpatterns = []


@pytest.fixture
def stuck(databases: Databases, settings: Any) -> Any:
    """A pool that is stuck as soon as everything is on loan."""
    settings.CONNPOOL_STUCK_AFTER = 0
    return databases.add(pool={"max_size": 1})


def ask_health_check(*checks: Any) -> tuple[int, str]:
    views = pytest.importorskip("health_check.views", reason="django-health-check is missing")
    view = views.HealthCheckView.as_view(checks=checks)
    answer = asyncio.run(view(AsyncRequestFactory().get("/?format=text")))
    return answer.status_code, answer.content.decode()


OURS = "django_connpool.contrib.health_check.Pools"


def test_health_check_tells_what_is_wrong_without_a_connection(stuck: Any) -> None:
    ours = (OURS, {"aliases": ["spare"]})
    stuck.pool.putconn(stuck.pool.getconn())
    assert ask_health_check(ours) == (200, "Pools(aliases=['spare']): OK\n")
    borrowed = stuck.pool.get_stats()["requests_num"]
    with everything_on_loan(stuck):
        status, text = ask_health_check(ours)
        assert ask_health_check((OURS, {"aliases": ["another"]}))[0] == 200
    assert status == 500
    assert "Unavailable: spare: stuck: the one connection has been on loan" in text
    assert stuck.pool.get_stats()["requests_num"] == borrowed + 1  # ours, just now


def test_watchman_tells_of_each_pool(
    stuck: Any, databases: Databases, throwaway_cluster: Cluster, settings: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("watchman", reason="django-watchman is missing")
    monkeypatch.setattr(
        "watchman.utils.WATCHMAN_CHECKS", ("django_connpool.contrib.watchman.pools",)
    )
    settings.ROOT_URLCONF = __name__
    gone = databases.add("gone", server=throwaway_cluster, pool={"outage_patience": 0})
    throwaway_cluster.stop()
    with pytest.raises(Exception, match="connection"):
        gone.ensure_connection()
    stuck.pool.putconn(stuck.pool.getconn())
    answer = Client().get("/watchman/")
    assert answer.status_code == 500
    told = {alias: one for each in answer.json()["pools"] for alias, one in each.items()}
    assert told["spare"] == {"ok": True}
    assert told["gone"]["ok"] is False
    assert told["gone"]["error"].startswith("gone: down: connecting has failed for ")


def test_our_check_is_in_watchmans_form(stuck: Any) -> None:
    from django_connpool.contrib.watchman import pools

    with everything_on_loan(stuck):
        told = pools()
    assert {"spare"} <= {alias for each in told["pools"] for alias in each}
    json.dumps(told)
