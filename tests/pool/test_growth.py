"""When one more connection is worth opening."""

from __future__ import annotations

from typing import Any

import pytest

from tests.inside import (
    PATIENCE,
    patience,
    worth_opening,
)

# One in line, one on loan that comes back in half the time a connect takes.
QUIET: dict[str, Any] = {
    "waiting": 1,
    "opening": 0,
    "on_loan": 1,
    "stalled_for": 0.0,
    "pressed_for": 0.0,
    "mean_hold": 0.05,
    "mean_connect": 0.1,
}


@pytest.mark.parametrize(
    ("case", "worth"),
    [
        ({}, False),
        ({"on_loan": 0}, True),
        ({"on_loan": 0, "opening": 1}, False),
        ({"waiting": 3}, True),
        ({"waiting": 3, "opening": 1}, False),
        ({"waiting": 3, "on_loan": 4}, False),
        ({"stalled_for": 0.06}, True),
        ({"stalled_for": 0.04}, False),
        ({"waiting": 2, "stalled_for": 0.06, "opening": 1}, True),
        ({"pressed_for": 0.06}, True),
        ({"waiting": 2, "pressed_for": 0.06, "opening": 1}, False),
        ({"mean_hold": None}, True),
        ({"mean_hold": None, "waiting": 2, "opening": 1}, False),
    ],
)
def test_worth_opening(case: dict[str, Any], worth: bool) -> None:
    assert worth_opening(**QUIET | case) is worth


def test_patience_is_half_a_connect_but_never_nothing() -> None:
    assert patience(1.0) == 0.5
    assert patience(0.0) == PATIENCE > 0
