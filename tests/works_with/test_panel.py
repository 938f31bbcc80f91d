"""The panel of ours for django-debug-toolbar."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import ENGINES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]


@pytest.mark.parametrize("way", ENGINES)
def test_the_panel_tells_what_a_request_does_with_its_connections(
    way: str, cluster: Server
) -> None:
    told = run("panel", way, package="debug_toolbar", url=cluster.url())
    loans = {page: told[page]["stats"]["loans"] for page in told if isinstance(told[page], dict)}
    assert {told[page]["status"] for page in loans} == {200}

    assert loans["nothing"] == []
    assert "has borrowed no connection" in told["nothing"]["content"]

    for page in ("quick", "in_async", "asgi"):
        (loan,) = loans[page]
        assert loan["alias"] == "default"
        assert "panel.py" in loan["at"] and loan["at"].endswith("in quick")
        assert (loan["reasons"], loan["waited"]) == ([], 0)
        assert loan["held"] > 0
        assert told[page]["title"].startswith("1 loan, held ")
        assert "ConnectionsPanel_held;dur=" in told[page]["timing"]
        assert "whoever needed it could have it" in told[page]["content"]

    (loan,) = loans["in_atomic"]
    (reason,) = loan["reasons"]
    assert reason["why"] == "in a transaction"
    assert reason["statement"].startswith('SELECT ? AS "<b>"')
    assert "&lt;b&gt;" in told["in_atomic"]["content"]
    assert "<b>" not in told["in_atomic"]["content"]

    (loan,) = loans["with_state"]
    (reason,) = loan["reasons"]
    assert reason["statement"] == "SET work_mem ?"
    assert loan["ended"] == "not before the response"

    assert [loan["ended"] for loan in loans["twice"]] == [
        *("given back", "not before the response"),
    ]
    (loan,) = loans["waits"]
    assert loan["waited"] > 0
    assert ", waited " in told["waits"]["title"]

    assert loans["in_vain"] == []
    (timeout,) = told["in_vain"]["stats"]["timeouts"]
    assert timeout["waited"] > 0 and "no connection became free" in timeout["error"]
    assert "Waited in vain" in told["in_vain"]["content"]

    (pool,) = told["quick"]["stats"]["pools"]
    assert (pool["name"], pool["max_size"], pool["size"]) == ("default", 1, 1)
    assert told["in_use"] == 0
    assert told["receivers"] == 0
