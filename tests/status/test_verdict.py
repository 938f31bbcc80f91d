from __future__ import annotations

from typing import Any

import pytest

from django_connpool.status.verdict import WORDS, is_as_bad_as, verdict
from tests.pool.fake import FakeServer, working_pool
from tests.status.samples import loan, pool


def calm(**changes: Any) -> dict[str, Any]:
    return pool(**{"waiting": 0, "longest_wait": 0.0, **changes})


def full(*held: float, **changes: Any) -> dict[str, Any]:
    return calm(max_size=len(held), loans=[loan(held=seconds) for seconds in held], **changes)


def test_a_pool_at_work_is_well() -> None:
    assert verdict(calm()) == ("well", "nobody waits")


def test_a_short_wait_is_well_too() -> None:
    found = verdict(pool(waiting=2, longest_wait=0.25))
    assert found == ("well", "2 borrowers in line, the first for 250 ms")


def test_a_long_wait_is_busy() -> None:
    word, reason = verdict(pool(waiting=1, longest_wait=6.2))
    assert word == "busy"
    assert reason.startswith("somebody has waited 6.2 s for a connection")
    assert verdict(pool(waiting=1, longest_wait=6.2), busy_after=7.0)[0] == "well"


def test_a_suspended_pool_is_busy_whoever_waits() -> None:
    assert verdict(calm(suspended=True)) == ("busy", "lending is suspended until it is resumed")
    word, reason = verdict(pool(suspended=True, waiting=1, longest_wait=0.1))
    assert word == "busy"
    assert reason.endswith("resumed; 1 borrower in line, the first for 100 ms")


def test_a_pool_whose_every_place_is_held_for_long_is_stuck() -> None:
    found = verdict(full(61.0, 75.0))
    assert found == ("stuck", "all 2 connections have been on loan for more than 1m 01s")
    assert verdict(full(61.0))[1].startswith("the one connection has")
    assert verdict(full(61.0, 75.0), stuck_after=70.0)[0] == "well"


def test_it_is_not_stuck_while_a_place_is_free_or_a_loan_is_young_or_offered() -> None:
    assert verdict(full(61.0, 2.0))[0] == "well"
    assert verdict({**full(61.0, 75.0), "max_size": 3})[0] == "well"
    old = [loan(held=75.0), {**loan(held=75.0), "offered": True}]
    assert verdict(calm(max_size=2, loans=old))[0] == "well"


def test_a_pool_whose_last_connect_failed_is_down_with_the_servers_words() -> None:
    found = verdict(full(75.0, last_error="connection refused\n\tIs it running?"))
    assert found == (
        "down",
        "connecting has failed: connection refused Is it running?",
    )
    assert verdict(calm(closed=True)) == ("down", "the pool is closed")


@pytest.mark.parametrize("state", ["up", "down"])
def test_it_reads_what_a_pool_says_of_itself(state: str) -> None:
    server = FakeServer()
    server.state = state
    with working_pool(server, max_size=1, outage_patience=0.0) as made:
        try:
            made.putconn(made.getconn())
        except Exception as error:
            assert state == "down", error
        assert verdict({**made.snapshot(), "alias": "default"})[0] == {"up": "well"}.get(
            state, state
        )


def test_each_word_is_worse_than_those_before_it() -> None:
    assert [word for word in WORDS if is_as_bad_as(word, "stuck")] == ["stuck", "down"]
