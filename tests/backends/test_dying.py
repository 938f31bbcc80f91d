"""A connection that dies in the hand of its borrower."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, transaction

from tests import inside
from tests.cluster import Server
from tests.databases import Databases, on_loan, pid, value


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 1, "timeout": 5})


def kill(server: Server, wrapper: Any) -> int:
    first = pid(wrapper)
    assert server.terminate(first) == 1
    return first


def test_what_has_died_between_two_statements_costs_none_of_them(
    spare: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_trust=0.0)
    first = kill(cluster, spare)
    assert pid(spare) != first
    assert on_loan(spare) == 1


def test_after_one_error_the_next_query_works(spare: Any) -> None:
    first = pid(spare)
    with pytest.raises(DatabaseError):
        value(spare, "SELECT pg_terminate_backend(pg_backend_pid())")

    assert pid(spare) != first
    assert on_loan(spare) == 1


def test_a_loop_that_goes_on_at_once_sees_one_error_for_each_death(
    spare: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_trust=3600.0)
    errors = 0
    for turn in range(12):
        if turn % 4 == 1:
            kill(cluster, spare)
        try:
            assert value(spare, "SELECT %s::int", [turn]) == turn
        except DatabaseError:
            errors += 1
    assert errors == 3


def test_nothing_is_done_twice(spare: Any, cluster: Server) -> None:
    cluster.execute("CREATE TABLE once (n int)")
    try:
        with pytest.raises(DatabaseError):
            value(
                spare,
                "WITH ins AS (INSERT INTO once VALUES (1) RETURNING n)"
                " SELECT pg_terminate_backend(pg_backend_pid()) FROM ins",
            )
        assert value(spare, "SELECT count(*) FROM once") == 0
    finally:
        cluster.execute("DROP TABLE once")


def test_in_a_transaction_it_is_not_replaced(spare: Any, cluster: Server) -> None:
    with pytest.raises(DatabaseError), transaction.atomic(using="spare"):
        kill(cluster, spare)
        for _ in range(2):
            with pytest.raises(DatabaseError):
                value(spare, "SELECT 1")
        value(spare, "SELECT 1")
    assert value(spare, "SELECT 1") == 1


def test_in_a_transaction_without_atomic_it_is_not_replaced_either(
    spare: Any, cluster: Server
) -> None:
    spare.set_autocommit(False)
    kill(cluster, spare)
    for _ in range(2):
        with pytest.raises(DatabaseError):
            value(spare, "SELECT 1")
    spare.close()
    assert value(spare, "SELECT 1") == 1


def test_an_error_of_the_statement_alone_keeps_the_connection(spare: Any) -> None:
    first = pid(spare)
    with pytest.raises(DatabaseError):
        value(spare, "SELECT nonsense")

    assert pid(spare) == first


def test_what_was_lent_as_an_interrupt_struck_goes_back_although_the_error_is_kept(
    spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(spare)
    spare.close()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:
        inside.taking_in_hand_by(patch, KeyboardInterrupt)
        spare.ensure_connection()
    assert spare.pool.snapshot()["in_use"] == 0
    assert kept.tb is not None
