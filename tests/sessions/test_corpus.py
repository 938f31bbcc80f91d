"""Each way to change a session, through one request, and what the next request finds of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from django_connpool import scope
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, in_thread, pid, value
from tests.pool.real.helpers import until_known
from tests.sessions.corpus import (
    HARMLESS,
    HIDDEN,
    HIDDEN_FUNCTIONS,
    REPORTED,
    STATEMENTS,
    apply,
)
from tests.sessions.state import leaks
from tests.testproject.processes import wait_until

RequestTo = Callable[[str, Callable[[Any], Any]], Any]
State = dict[str, dict[str, Any]]
SEEN = {**STATEMENTS, **REPORTED}


@pytest.fixture
def served(databases: Databases, request_to: RequestTo, fresh: State) -> Callable[..., list[str]]:
    """A function that has one request change the session, and returns what the next one finds."""

    def serve(change: Any, **pool: Any) -> list[str]:
        databases.add("used", pool={"max_size": 1, **pool}, options={"application_name": ""})
        request_to("used", pid)  # what is done once to a new connection has been done
        if pool.get("reset") != "always":
            until_known(connections["used"].pool)  # else all is cleaned
        request_to("used", lambda wrapper: apply(wrapper, change))
        assert connections["used"].connection is None
        return list(request_to("used", lambda wrapper: leaks(wrapper, fresh)))

    return serve


@pytest.mark.parametrize("reset", ["auto", "always"])
@pytest.mark.parametrize("name", SEEN)
def test_the_next_request_finds_nothing_of(
    name: str, reset: str, served: Callable[..., list[str]]
) -> None:
    assert served(SEEN[name], reset=reset) == []


@pytest.mark.stress
def test_the_next_scope_finds_nothing_after_a_query_before_the_first(
    databases: Databases, fresh: State
) -> None:
    found = {}
    for number, (name, change) in enumerate(STATEMENTS.items()):
        alias = f"scoped-{number}"
        wrapper = databases.add(alias, pool={"max_size": 1}, options={"application_name": ""})
        pid(wrapper)
        with scope("a job"):
            apply(wrapper, change)
        with scope("another"):
            found[name] = leaks(wrapper, fresh)
        wrapper.close_pool()
    assert {name: left for name, left in found.items() if left} == {}


@pytest.mark.parametrize("name", HIDDEN)
def test_always_cleans_what_a_function_hides(name: str, served: Callable[..., list[str]]) -> None:
    assert served(HIDDEN[name], reset="always") == []


@pytest.mark.parametrize("name", HIDDEN)
def test_auto_cleans_what_a_named_function_hides(
    name: str, served: Callable[..., list[str]]
) -> None:
    assert served(HIDDEN[name], reset_functions=HIDDEN_FUNCTIONS) == []


@pytest.mark.parametrize("name", HIDDEN)
def test_auto_finds_by_itself_what_a_function_hides(
    name: str, served: Callable[..., list[str]]
) -> None:
    assert served(HIDDEN[name]) == []


def test_the_corpus_is_real(databases: Databases, request_to: RequestTo, fresh: State) -> None:
    """Without cleaning nearly all of it is found: or the tests above could not fail."""
    found = {}
    for number, (name, change) in enumerate(STATEMENTS.items()):
        alias = f"unclean-{number}"
        databases.add(alias, pool={"max_size": 1, "reset": False}, options={"application_name": ""})
        request_to(alias, lambda wrapper, change=change: apply(wrapper, change))
        found[name] = request_to(alias, lambda wrapper: leaks(wrapper, fresh))
        connections[alias].close_pool()
    silent = {name for name, left in found.items() if not left}
    assert len(STATEMENTS) >= 140
    assert silent <= WITHOUT_TRACE, sorted(silent - WITHOUT_TRACE)


# Changes of which even an uncleaned session shows nothing to the questions that are asked.
WITHOUT_TRACE = {
    # They set what is there already.
    "reset role",
    "set role none",
    "set time zone local",
    # Django's wrapper sets it at each borrow.
    "autocommit",
    # The pool rolls back in any case.
    "failed transaction left open",
    "set and rolled back by atomic",
    # Forgotten when somebody asks.
    "insert with a serial key",
    "nextval",
    "setval",
    # Looked at below.
    "set seed",
    "setseed",
    # A library that is there already.
    "load",
}


@pytest.mark.parametrize("change", ["SELECT setseed(0.25)", "SET seed = 0.25"])
def test_nobody_can_foretell_the_random_numbers_of_the_next(
    change: str, databases: Databases, request_to: RequestTo
) -> None:
    wrapper = databases.add("used", pool={"max_size": 1})
    apply(wrapper, (change,))
    foretold = value(wrapper, "SELECT random()")
    wrapper.close()
    request_to("used", lambda wrapper: apply(wrapper, (change,)))
    assert request_to("used", lambda wrapper: value(wrapper, "SELECT random()")) != foretold


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_not_cleaned(
    name: str, databases: Databases, request_to: RequestTo
) -> None:
    wrapper = databases.add("used", pool={"max_size": 1})
    first = pid(wrapper)
    wrapper.close()
    until_known(wrapper.pool)
    request_to("used", lambda wrapper: apply(wrapper, HARMLESS[name]))
    (slot,) = inside.slots(wrapper.pool)
    assert not inside.is_being_cleaned(slot)
    assert pid(wrapper) == first


def test_a_session_is_cleaned_and_kept_not_replaced(
    databases: Databases, request_to: RequestTo
) -> None:
    wrapper = databases.add("used", pool={"max_size": 1})
    first = pid(wrapper)
    for change in (
        "SET work_mem = '7MB'",
        "CREATE TEMP TABLE t (x int)",
        "LISTEN c",
        "DO 'BEGIN END'",
    ):
        request_to("used", lambda wrapper, change=change: apply(wrapper, (change,)))
        assert request_to("used", pid) == first


def test_within_one_request_what_a_view_sets_stays(
    databases: Databases, request_to: RequestTo
) -> None:
    databases.add("used", pool={"max_size": 1})

    def view(wrapper: Any) -> Any:
        apply(wrapper, ("SET app.tenant = '42'", "CREATE TEMP TABLE t AS SELECT 1 AS x"))
        return value(wrapper, "SELECT current_setting('app.tenant') || x FROM t")

    assert request_to("used", view) == "421"


@pytest.mark.parametrize("name", SEEN)
def test_released_early_it_is_the_owners_for_the_request_and_nobody_elses(
    name: str, databases: Databases, request_to: RequestTo, fresh: State, cluster: Server
) -> None:
    # Two connections each, so that another thread can ask at any moment, without waiting.
    for mode in ("transaction", "request"):
        pool = {"max_size": 2, "release": mode}
        databases.add(mode, pool=pool, options={"application_name": ""})
    kept: list[Any] = []

    def ask_in_another_thread(alias: str) -> list[str]:
        def ask() -> list[str]:
            try:
                return leaks(connections[alias], fresh)
            finally:
                connections[alias].close()

        return list(in_thread(ask))

    def view(wrapper: Any) -> tuple[list[str], list[str], list[str]]:
        kept.append(apply(wrapper, SEEN[name]))
        before = ask_in_another_thread(wrapper.alias)
        mine = leaks(wrapper, fresh)
        return before, mine, ask_in_another_thread(wrapper.alias)

    before, mine, after = request_to("transaction", view)
    # The two are one database to the server: what the first has locked must be free again.
    wait_until(lambda: not locked(cluster), "it is cleaned")
    _, expected, _ = request_to("request", view)
    assert before == after == []
    assert _but_sequences(mine) == _but_sequences(expected)
    kept.clear()
    assert request_to("transaction", lambda wrapper: leaks(wrapper, fresh)) == []


def locked(server: Server) -> int:
    """How many advisory locks are held."""
    count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    return int(server.execute(count)[0][0])


def _but_sequences(found: list[str]) -> list[str]:
    """What sequences remember is no reason to hold on: see docs/release.md."""
    anyones = [re.sub(r"pg_temp_\d+", "pg_temp", each) for each in found]
    return [each for each in anyones if not each.startswith("sequences")]
