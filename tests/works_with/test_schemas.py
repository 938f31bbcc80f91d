"""Packages whose classes stand above or below ours: django-postgres-extra, django-pgtrigger."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import ENGINES, MODES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ENGINES)
def test_the_engine_of_postgres_extra(way: str, mode: str, cluster: Server) -> None:
    told = run("schemas", "psqlextra", way, mode, package="psqlextra", url=cluster.url())
    assert told == {"theirs": True, "found": ["green"], "in_use": 0}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ENGINES)
def test_the_schema_editor_of_pgtrigger(way: str, mode: str, cluster: Server) -> None:
    told = run("schemas", "pgtrigger", way, mode, package="pgtrigger", url=cluster.url())
    assert told == {"theirs": True, "refused": True, "left": 0, "in_use": 0}
