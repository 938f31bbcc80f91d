"""The comparison with Django's own suite: what counts as a difference. (The suite itself: tox.)"""

from __future__ import annotations

import pytest

from tests.django_suite import explained, labels
from tests.django_suite.comparing import compare
from tests.django_suite.explained import Entry
from tests.django_suite.running import Outcomes


def outcomes(**ends: str) -> Outcomes:
    return {test: {"outcome": outcome, "why": ""} for test, outcome in ends.items()}


def entries(*tests: str) -> dict[str, Entry]:
    one = frozenset({"6.1"}), frozenset({"request"})
    return {test: Entry(test, *one, "because") for test in tests}


def test_tests_that_end_alike_are_counted_one_by_one() -> None:
    run = outcomes(a="passed", b="skipped", c="failed")
    found = compare(run, run, {})

    assert (found.passed, found.failed) == (3, 0)
    assert found.failed_alike == ["c"]


@pytest.mark.parametrize(
    "ours",
    [outcomes(a="failed"), outcomes(a="skipped"), outcomes(), outcomes(a="passed", b="error")],
)
def test_a_test_that_ends_otherwise_is_a_failure(ours: Outcomes) -> None:
    found = compare(outcomes(a="passed"), ours, {})

    assert found.failed == 1


def test_a_difference_that_is_explained_is_none() -> None:
    found = compare(outcomes(a="passed"), outcomes(a="failed"), entries("a"))

    assert (found.passed, found.failed) == (1, 0)


def test_an_explanation_without_a_difference_is_a_failure() -> None:
    run = outcomes(a="passed", b="passed")
    found = compare(run, run, entries("a", "not chosen this time"))

    assert found.stale == ["a"]
    assert (found.passed, found.failed) == (1, 1)


def test_every_explanation_is_complete() -> None:
    read = list(explained.read(explained.FILE.read_text()))

    assert read
    for entry in read:
        assert entry.versions <= {"4.2", "5.1", "5.2", "6.0", "6.1"}, entry
        assert entry.modes <= {"auto", "request", "transaction"}, entry
        assert entry.versions and entry.modes


def test_an_explanation_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="no reason"):
        list(explained.read("some.test | 6.1 | request | "))


def test_labels_are_sorted_and_named_once() -> None:
    assert list(labels.CONNECTIONS) == sorted(set(labels.CONNECTIONS))
