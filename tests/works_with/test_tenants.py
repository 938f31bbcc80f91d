"""django-tenants, over our engine (ORIGINAL_BACKEND) and under our mixin."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import MODES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["engine", "mixin", "engine with TENANT_LIMIT_SET_CALLS"])
def test_every_request_is_in_its_tenants_schema_and_they_share_a_pool(
    way: str, mode: str, cluster: Server
) -> None:
    way, _, limit = way.partition(" with ")
    arguments = [way, mode, *([limit] if limit else [])]
    told = run("tenants", *arguments, package="django_tenants", url=cluster.url())
    assert told["errors"] == []
    assert told["right"] == 160
    assert told["pools"] == 1
    assert told["opened"] <= 2
    assert told["in_use"] == 0
