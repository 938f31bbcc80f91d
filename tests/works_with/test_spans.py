"""Agents tell of a request with our engine what they tell of one with the stock engine."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.processes import ENGINES, MODES, run
from tests.works_with.spans import AGENTS

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]

WHEN = [
    (agent, when)
    for agent in AGENTS
    for when in ("before", "after")
    # New Relic's can only be switched on before what it watches is imported.
    if (agent, when) != ("newrelic", "after")
]


@pytest.mark.parametrize(("agent", "when"), WHEN)
def test_a_request_has_the_spans_that_it_has_with_the_stock_engine(
    agent: str, when: str, cluster: Server
) -> None:
    told = run("spans", agent, when, package=agent, url=cluster.url())
    stock = told.pop("stock")
    assert told.pop("as-django") == stock
    assert sum("SELECT" in name for _, name in stock) >= 4
    assert sorted(told) == sorted(f"{way}-{mode}" for way in ENGINES for mode in MODES)
    if agent.startswith("opentelemetry"):
        # It looks at what psycopg's cursor is told, and there a savepoint rides along.
        assert sum(name.startswith("SAVEPOINT") for _, name in stock) == 1
        stock = [span for span in stock if not span[1].startswith("SAVEPOINT")]
    for alias, spans in told.items():
        assert spans == stock, alias
