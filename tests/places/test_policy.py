"""Who takes the next place, and who gives one up."""

from __future__ import annotations

import pytest

from tests.inside import places as tenants
from tests.inside import rules as policy

Claim = tenants.Claim
NOW = 100.0


def waiting(number: int, *, held: int = 0, line: int = 1, since: float = NOW - 1) -> policy.Claim:
    return Claim(number, held, 0, 0, 0, line, line, since)


def test_who_has_nothing_comes_before_who_has_something() -> None:
    assert policy.is_first(waiting(1), [waiting(2, held=1, line=50)])
    assert not policy.is_first(waiting(2, held=1, line=50), [waiting(1)])


def test_of_those_that_have_nothing_the_longest_in_line_comes_first() -> None:
    assert policy.is_first(waiting(2, since=NOW - 2), [waiting(1, line=50, since=NOW - 1)])


def test_who_has_ten_in_line_comes_before_who_has_one() -> None:
    assert policy.is_first(waiting(1, held=2, line=10), [waiting(2, held=2, line=1)])
    assert policy.is_first(waiting(1, held=2, line=10), [waiting(2, held=1, line=1)])


def test_who_wants_nothing_is_before_nobody() -> None:
    assert policy.is_first(waiting(1, held=5), [Claim(2)])


@pytest.mark.parametrize(
    ("idle", "wanted", "free", "giving", "gives"),
    [
        (3, 2, 0, 0, 2),
        (3, 9, 0, 0, 3),
        (3, 2, 1, 0, 1),  # one is free anyhow
        (3, 2, 0, 1, 1),  # one is on its way
        (3, 0, 0, 0, 0),
        (0, 2, 0, 0, 0),
    ],
)
def test_so_many_idle_ones_are_given_up_as_are_wanted(
    idle: int, wanted: int, free: int, giving: int, gives: int
) -> None:
    me = Claim(1, 5, idle, idle, giving)
    assert policy.gives_idle(me, [waiting(2, line=wanted)], free) == gives


def test_two_that_have_idle_ones_do_not_both_give_for_one_that_waits() -> None:
    one, two, three = Claim(1, 3, 3, 3), Claim(2, 2, 2, 2), waiting(3)
    assert policy.gives_idle(one, [two, three], 0) == 1
    assert policy.gives_idle(two, [one, three], 0) == 0


def test_what_was_used_a_moment_ago_is_only_for_who_has_none() -> None:
    me = Claim(1, 3, 2, 0)
    assert policy.gives_idle(me, [waiting(2, held=1, line=5)], 0) == 0
    assert policy.gives_idle(me, [waiting(2, line=5)], 0) == 1
    assert policy.gives_idle(me, [waiting(2), waiting(3)], 0) == 2


def test_who_waits_itself_gives_nothing_idle() -> None:
    assert policy.gives_idle(Claim(1, 3, 1, 1, 0, 2, 2, NOW), [waiting(2)], 0) == 0


def test_who_uses_all_it_has_parts_with_one_for_who_has_none() -> None:
    me = Claim(1, 3)
    assert policy.parts(me, [waiting(2)], 0, NOW, NOW - 9)
    assert not policy.parts(me, [waiting(2, since=NOW)], 0, NOW, NOW - 9)  # a moment ago
    assert not policy.parts(me, [waiting(2)], 1, NOW, NOW - 9)  # there is one


def test_nobody_parts_where_another_has_something_idle() -> None:
    assert not policy.parts(Claim(1, 3), [waiting(2), Claim(3, 1, 1)], 0, NOW, NOW - 9)


def test_the_last_one_goes_round() -> None:
    me = waiting(1, held=1, line=3)
    assert policy.parts(me, [waiting(2, since=NOW - 1.1 * policy.LONG)], 0, NOW, NOW - 9)
    assert not policy.parts(me, [waiting(2, since=NOW - policy.LONG / 2)], 0, NOW, NOW - 9)
    assert not policy.parts(me, [waiting(2)], 0, NOW, NOW - policy.LONG / 2)


def test_who_needs_about_as_much_keeps_what_it_has() -> None:
    me, other = waiting(1, held=3, line=3), waiting(2, held=3, line=4)
    assert not policy.parts(me, [other], 0, NOW, NOW - 9)
    assert policy.parts(me, [waiting(2, held=3, line=20)], 0, NOW, NOW - 9)


def test_only_the_one_with_the_least_need_parts() -> None:
    rich, poor, other = Claim(1, 4), Claim(2, 2, 0, 0, 0, 3), waiting(3)
    assert policy.parts(rich, [poor, other], 0, NOW, NOW - 9)
    assert not policy.parts(poor, [rich, other], 0, NOW, NOW - 9)


def test_what_two_have_to_do_alike_comes_to_rest() -> None:
    """From any start, and no place goes back and forth."""
    held, demand, moves = {1: 9, 2: 3}, {1: 10, 2: 12}, []

    def own(number: int) -> policy.Claim:
        line = max(0, demand[number] - held[number])
        return Claim(number, held[number], 0, 0, 0, line, line, NOW - 1)

    for _ in range(30):
        for giver, taker in ((1, 2), (2, 1)):
            if policy.parts(own(giver), [own(taker)], 0, NOW, NOW - 9):
                held[giver], held[taker] = held[giver] - 1, held[taker] + 1
                moves.append(giver)
    assert set(moves) == {1}
    assert 5 <= held[1] <= 8


@pytest.mark.parametrize(
    ("claims", "pace"),
    [
        ([Claim(1, 4, 2)], policy.ASLEEP),
        ([waiting(1, held=2), Claim(2, 4)], policy.SLOW),
        ([waiting(1, held=2), waiting(2)], policy.FAST),
    ],
)
def test_others_look_oftener_for_who_has_none(claims: list[policy.Claim], pace: int) -> None:
    assert policy.pace(claims) == pace
