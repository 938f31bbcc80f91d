"""What a refusal means, and when the next attempt is due."""

from __future__ import annotations

import pytest
from psycopg import OperationalError, ProgrammingError, errors

from tests.inside import (
    FIRST_RETRY,
    FORGOTTEN,
    FULL,
    LAST_RETRY,
    LAZY_RETRY,
    REFUSED,
    STARTING,
    YOUNG_RETRY,
    Outage,
    again,
    heals,
    kind_of,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("FATAL:  the database system is starting up", STARTING),
        ("FATAL:  the database system is not yet accepting connections", STARTING),
        ("FATAL:  sorry, too many clients already", FULL),
        ('FATAL:  too many connections for role "shop"', FULL),
        ("FATAL:  remaining connection slots are reserved for superusers", FULL),
        ("connection refused", REFUSED),
        ('FATAL:  database "shop" does not exist', REFUSED),
    ],
)
def test_a_refusal_is_sorted_by_its_text(text: str, kind: str) -> None:
    assert kind_of(OperationalError(text)) == kind


@pytest.mark.parametrize(
    ("kind", "loans", "closing", "hopeless"),
    [
        ("connection refused", 0, 0, True),
        ("connection refused", 0, 1, True),
        ("connection refused", 1, 0, False),
        ("too many clients already", 0, 0, True),
        ("too many clients already", 0, 1, False),
        ("too many clients already", 1, 0, False),
        ("the database system is starting up", 0, 0, False),
    ],
)
def test_waiting_is_hopeless_when_nothing_can_come(
    kind: str, loans: int, closing: int, hopeless: bool
) -> None:
    assert Outage(OperationalError(kind), 0.0).waiting_cannot_help(loans, closing) is hopeless


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("connection refused"), True),
        (OperationalError("FATAL:  the database system is shutting down"), True),
        (OperationalError("FATAL:  sorry, too many clients already"), True),
        (OperationalError("session is read-only"), True),
        (OperationalError("failed to resolve host 'db': Name or service not known"), True),
        (errors.AdminShutdown("terminating connection"), True),
        (ConnectionResetError("the secrets' server is away"), True),
        (OperationalError('FATAL:  password authentication failed for user "shop"'), False),
        (OperationalError('FATAL:  role "shop" does not exist'), False),
        (OperationalError('FATAL:  no pg_hba.conf entry for host "10.1.2.3"'), False),
        (errors.InvalidAuthorizationSpecification("in another language"), False),
        (errors.InsufficientPrivilege("to set the role"), False),
        (ProgrammingError("invalid dsn"), False),
        (LookupError("no secret"), False),
    ],
)
def test_what_time_may_heal(error: Exception, expected: bool) -> None:
    assert heals(error) is expected


def test_an_outage_is_waited_for_while_it_is_young() -> None:
    outage = Outage(OperationalError("connection refused"), 100.0, patience=3.0)
    assert not outage.waiting_cannot_help(0, 0, 102.9)
    assert outage.waiting_cannot_help(0, 0, 103.0)
    assert Outage(
        OperationalError("authentication failed"), 100.0, patience=3.0
    ).waiting_cannot_help(0, 0, 1)


def test_attempts_are_not_far_apart_while_an_outage_is_young() -> None:
    error = OperationalError("down")
    outage = Outage(error, 100.0, patience=3.0)
    for _ in range(20):
        outage.another(error, 101.0, asked=True)
    assert outage.retry_at <= 101.0 + YOUNG_RETRY
    for _ in range(20):
        outage.another(error, 101.0, asked=False)
    assert outage.retry_at > 101.0 + YOUNG_RETRY
    assert outage.hurry(101.0) == 101.0 + YOUNG_RETRY


def test_attempts_that_fail_together_count_once() -> None:
    error = OperationalError("down")
    outage = Outage(error, 100.0)
    for _ in range(20):
        outage.another(error, 100.1, asked=True, began=99.9)
    assert outage.retry_at <= 100.0 + FIRST_RETRY


def test_a_failure_long_after_the_last_attempt_is_an_outage_of_its_own() -> None:
    error = OperationalError("down")
    outage = Outage(error, 100.0, patience=3.0)
    outage.another(error, 100.0 + FORGOTTEN, asked=True)
    assert outage.since == 100.0
    outage.another(error, 101.0 + 2 * FORGOTTEN, asked=True)
    assert outage.is_young(103.0 + 2 * FORGOTTEN)


def test_attempts_are_spaced_further_and_further_but_not_while_somebody_asks() -> None:
    error = OperationalError("down")
    outage = Outage(error, 0.0)
    assert FIRST_RETRY / 2 <= outage.retry_at <= FIRST_RETRY
    for _ in range(20):
        outage.another(error, 100.0, asked=True)
    assert 100 + LAST_RETRY / 2 <= outage.retry_at <= 100 + LAST_RETRY
    outage.another(error, 100.0, asked=False)
    assert 100 + LAZY_RETRY / 2 <= outage.retry_at <= 100 + LAZY_RETRY


def test_one_who_asks_hurries_the_next_attempt() -> None:
    error = OperationalError("down")
    outage = Outage(error, 0.0)
    for _ in range(20):
        outage.another(error, 100.0, asked=False)
    assert outage.hurry() == outage.retry_at == 100 + LAST_RETRY


def test_an_error_told_again_has_its_class_text_and_cause() -> None:
    error = OperationalError("down")
    told = again(error)
    assert told is not error
    assert type(told) is OperationalError
    assert str(told) == "down"
    assert told.__cause__ is error


def test_an_error_that_cannot_be_made_again_is_told_itself() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("odd")

    error = Odd(1, 2)
    assert again(error) is error
