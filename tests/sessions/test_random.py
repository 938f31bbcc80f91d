"""Statements put together at random: afterwards the session equals one that nobody has used."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import inside
from tests.databases import DEADLINE, Databases
from tests.pool.real.helpers import until_known
from tests.sessions.corpus import HARMLESS, STATEMENTS
from tests.sessions.state import leaks

PLAIN = sorted(
    statement
    for changes in (STATEMENTS, HARMLESS)
    for change in changes.values()
    if not callable(change)
    for statement in change
    # They take their time, or replace the session (read-only, once a write was refused), which is
    # another test's subject.
    if not any(
        word in statement
        for word in ("seed", "LOAD", "20ms", "default_transaction_read", "READ ONLY")
    )
)
ENDINGS = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "atomic", "atomic fails"]
STEPS = st.lists(st.sampled_from(PLAIN) | st.sampled_from(ENDINGS), min_size=1, max_size=8)


def run(wrapper: Any, steps: list[str]) -> None:
    """Run the steps as a view might, going on after errors."""
    for step in steps:
        try:
            if step.startswith("atomic"):
                with transaction.atomic(using=wrapper.alias):
                    execute(wrapper, "SET work_mem = '5MB'")
                    if step == "atomic fails":
                        raise ZeroDivisionError
            else:
                execute(wrapper, step)
        except (DatabaseError, ZeroDivisionError):
            pass


def execute(wrapper: Any, statement: str) -> None:
    with wrapper.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("reset", ["auto", "always"])
def test_a_session_equals_a_new_one_after_anything(
    reset: str,
    databases: Databases,
    fresh: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow the machine is.
    inside.tune(monkeypatch, clean_patience=DEADLINE, clean_timeout=DEADLINE)
    wrapper = databases.add(
        "used",
        pool={"max_size": 1, "timeout": DEADLINE, "reset": reset},
        options={"application_name": ""},
    )
    until_known(wrapper.pool)  # else all is cleaned
    wrapper.close()

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(STEPS)
    @example(["SET ROLE corpus_role", "CREATE TABLE t (x int)"])  # which it then owns
    def check(steps: list[str]) -> None:
        run(wrapper, steps)
        wrapper.close()
        assert leaks(wrapper, fresh) == []
        wrapper.close()

    check()
    # It was cleaned, not replaced each time.
    assert wrapper.pool.get_stats()["connections_num"] <= 3
