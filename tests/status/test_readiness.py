"""Busy, stuck, down, or well: judged from what a pool says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_connpool.status.readiness import Limits, judge, troubles
from tests.status.samples import loan, pool

LIMITS = Limits(busy_after=5.0, stuck_after=60.0, down_for=30.0)


def kind(**changes: Any) -> str:
    found = judge({"last_error": None, **pool(**changes)}, LIMITS)  # type: ignore[typeddict-item]
    return "" if found is None else found.kind


def outage(**changes: Any) -> dict[str, Any]:
    gone = {"kind": "refused", "since": 60.0, "failed": 1.0, "attempts": 3, "young": False}
    return {"last_error": "no", "outage": {**gone, **changes}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"waiting": 3, "longest_wait": 5.1}, "busy"),
        ({"waiting": 3, "longest_wait": 4.9}, ""),
        ({"waiting": 0, "longest_wait": 9.0}, ""),
        ({"max_size": 2, "loans": [loan(held=61.0), loan(held=99.0)]}, "stuck"),
        ({"max_size": 2, "loans": [loan(held=59.0), loan(held=99.0)]}, ""),
        ({"max_size": 3, "loans": [loan(held=61.0), loan(held=99.0)]}, ""),
        ({"max_size": 2, "loans": [loan(held=61.0), loan(held=99.0, offered=True)]}, ""),
        ({"max_size": 0, "loans": []}, ""),
        (outage(), "down"),
        (outage(young=True), ""),
        (outage(failed=31.0), ""),
        (outage(kind="full"), ""),
        ({**outage(kind="full"), "size": 0}, "down"),
        ({**outage(kind="full"), "size": 1, "opening": 1}, "down"),
        ({"last_error": "said by an earlier version"}, "down"),
        ({**outage(), "closed": True}, ""),
        ({**outage(), "waiting": 1, "longest_wait": 9.0}, "down"),
    ],
)
def test_a_pool_is_judged(changes: dict[str, Any], expected: str) -> None:
    assert kind(**changes) == expected


def test_what_is_said_names_the_pool_and_the_numbers() -> None:
    (found,) = troubles([pool(waiting=3, longest_wait=7.0), pool()], LIMITS)  # type: ignore[list-item]
    assert str(found) == (
        "default: busy: somebody has waited 7.0 s for a connection, and 2 more wait; "
        "2 of 10 are in use"
    )


def bound(**changes: Any) -> dict[str, Any]:
    others = [{"pid": 1, "pool": "default", "held": 4, "waiting": 0}]
    full = {"most": 6, "reserve": 0, "kept": True, "held": 2, "waits": True, "others": others}
    return {"name": "host_max_size", **full, **changes}


@pytest.mark.parametrize(
    ("changes", "of_the_bound", "expected"),
    [
        ({}, {}, "stuck"),
        ({}, {"reserve": 1, "most": 7}, "stuck"),
        ({"longest_wait": 0.9}, {}, ""),
        ({"loans": [loan(held=59.0), loan(held=99.0)]}, {}, ""),
        ({"loans": []}, {}, ""),
        ({"waiting": 0}, {}, ""),
        ({}, {"most": 7}, ""),
        ({}, {"waits": False}, ""),
        ({}, {"kept": False}, ""),
        ({"size": 10}, {}, ""),
    ],
)
def test_a_pool_that_a_full_bound_keeps_small_is_stuck_when_all_that_it_has_are_held(
    changes: dict[str, Any], of_the_bound: dict[str, Any], expected: str
) -> None:
    held = {"loans": [loan(held=61.0), loan(held=99.0)], "waiting": 1, "longest_wait": 1.1}
    assert kind(**{**held, "bounds": [bound(**of_the_bound)], **changes}) == expected


def test_who_waits_for_a_place_of_a_full_bound_is_told_so() -> None:
    waits = pool(waiting=1, longest_wait=7.0, in_use=1, bounds=[bound()])
    (found,) = troubles([waits], LIMITS)  # type: ignore[list-item]
    assert found.text == (
        "somebody has waited 7.0 s for a connection; 1 of 10 are in use, "
        "and host_max_size (6) has no place for another"
    )


def test_the_limits_are_settings(settings: Any) -> None:
    assert Limits.from_settings() == LIMITS
    settings.CONNPOOL_BUSY_AFTER, settings.CONNPOOL_STUCK_AFTER = 1, 2.5
    settings.CONNPOOL_DOWN_FOR = 0
    assert Limits.from_settings() == Limits(1.0, 2.5, 0.0)


@pytest.mark.parametrize("value", ["5", None, True, -1])
def test_a_limit_that_is_no_number_is_told(settings: Any, value: Any) -> None:
    settings.CONNPOOL_STUCK_AFTER = value
    with pytest.raises(ImproperlyConfigured, match="CONNPOOL_STUCK_AFTER"):
        Limits.from_settings()
