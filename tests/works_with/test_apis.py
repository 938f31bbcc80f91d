"""Django REST framework and Django Ninja have ways of their own with errors."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import is_here, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]


@pytest.mark.parametrize("debug", ["debug", "no debug"])
def test_an_api_that_gets_no_connection_answers_503(debug: str, cluster: Server) -> None:
    if not is_here("ninja") or not is_here("corsheaders"):
        pytest.skip("Django Ninja or django-cors-headers is not installed")
    told = run("apis", debug, package="rest_framework", url=cluster.url())

    assert told["well"] == [200] * 4
    assert len(told["busy"]) == 8
    for address, (status, retry_after, kind, origin) in told["busy"].items():
        assert (status, retry_after, origin) == (503, "5", "*"), address
        if debug == "no debug":
            assert kind == "application/json", address
    assert [name.rpartition(".")[2] for name in told["logged"]] == ["overload"]
