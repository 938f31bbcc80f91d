"""Packages that lean on the session: django-pglock, django-pghistory, procrastinate."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import MODES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]

WAYS = [("mixin", "auto"), *(("engine", mode) for mode in MODES)]


@pytest.mark.parametrize(("way", "mode"), WAYS)
def test_a_lock_of_pglock_is_held_and_released(way: str, mode: str, cluster: Server) -> None:
    told = run("locks", "pglock", way, mode, package="pglock", url=cluster.url())
    assert told == {
        "acquired": True,
        "kept": True,
        "refused_meanwhile": True,
        "free_again": True,
        "timeouts": ["7s", "0"],
        "left": 0,
        "in_use": 0,
    }


@pytest.mark.parametrize(("way", "mode"), WAYS)
def test_a_context_of_pghistory_is_of_its_request_only(
    way: str, mode: str, cluster: Server
) -> None:
    told = run("locks", "pghistory", way, mode, package="pghistory", url=cluster.url())
    of_one = {"user": "one"}
    assert told == {
        "told": [["first", of_one], ["without", None], ["second", of_one], ["later", None]],
        "in_use": 0,
    }


@pytest.mark.parametrize(("way", "mode"), WAYS)
def test_a_job_of_procrastinate_is_deferred_and_done(way: str, mode: str, cluster: Server) -> None:
    told = run("locks", "procrastinate", way, mode, package="procrastinate", url=cluster.url())
    assert told == {"done": [3], "states": ["succeeded"], "in_use": 0}
