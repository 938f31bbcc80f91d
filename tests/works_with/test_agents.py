"""Agents that trace, each in a process of its own, with each way in: see agents.py."""

from __future__ import annotations

import pytest

from tests.cluster import Server
from tests.works_with.agents import AGENTS
from tests.works_with.processes import ENGINES, MODES, run

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]

WAYS = ["alone", *(f"{way}-{mode}" for way in ENGINES for mode in MODES)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_sees_the_statements_of_every_way_in_and_changes_nothing_else(
    agent: str, when: str, cluster: Server
) -> None:
    told = run("agents", agent, when, package=agent, url=cluster.url())
    # Sentry looks at Django, and the pool alone knows none.
    ways = WAYS[1:] if agent == "sentry_sdk" else WAYS
    seen = {way for way in ways for statement in told["seen"] if f"/* {way} */" in statement}
    assert seen == set(ways)
    assert told["said"] == []
