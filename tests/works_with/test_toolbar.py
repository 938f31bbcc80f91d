"""django-debug-toolbar reads `connection.connection` before and after each statement."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import ENGINES, MODES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ENGINES)
def test_its_sql_panel_records_every_statement(way: str, mode: str, cluster: Server) -> None:
    told = run("toolbar", way, mode, package="debug_toolbar", url=cluster.url())
    assert told["answers"] == [[200, True]] * 2
    for recorded in told["recorded"]:
        assert recorded[:2] == ["SELECT 1", "SELECT 2"]
        assert [sql for sql in recorded if "5" in sql] and [sql for sql in recorded if "6" in sql]
    assert len(told["recorded"]) == 2
    assert told["in_use"] == 0
