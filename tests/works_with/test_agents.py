"""Agents that trace, each in a process of its own, with each way in: see agents.py."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.cluster import Server
from tests.works_with import agents

pytestmark = [pytest.mark.e2e, pytest.mark.works_with]

WAYS = ["alone", *(f"{way}-{mode}" for way in agents.ENGINES for mode in agents.MODES)]


def is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("agent", agents.AGENTS)
def test_an_agent_sees_the_statements_of_every_way_in_and_changes_nothing_else(
    agent: str, when: str, cluster: Server
) -> None:
    if not is_here(agent):
        pytest.skip(f"{agent} is not installed")
    told = agents.run(agent, when, cluster.url())
    # Sentry looks at Django, and the pool alone knows none.
    ways = WAYS[1:] if agent == "sentry_sdk" else WAYS
    seen = {way for way in ways for statement in told["seen"] if f"/* {way} */" in statement}
    assert seen == set(ways)
    assert told["said"] == []
