"""The line: who stands where in it, and who wakes up."""

from __future__ import annotations

from tests.inside import (
    Waiter,
    WaitQueue,
)


def line(*since: float) -> tuple[WaitQueue, list[Waiter]]:
    queue = WaitQueue()
    waiters = [Waiter(moment, 0) for moment in since]
    for waiter in waiters:
        queue.append(waiter)
    return queue, waiters


def test_newcomers_stand_last() -> None:
    queue, waiters = line(1, 2, 3)
    assert list(queue) == waiters
    assert queue[0] is waiters[0]


def test_one_that_gives_up_leaves_from_the_middle_and_may_do_so_twice() -> None:
    queue, (first, second, third) = line(1, 2, 3)
    queue.leave(second)
    queue.leave(second)
    assert list(queue) == [first, third]


def test_those_that_were_served_something_dead_take_their_old_places() -> None:
    queue, (first, second, third) = line(1, 1, 2)
    for waiter in (first, second):
        queue.leave(waiter)
    second, first = second.again(), first.again()
    for waiter in (second, first):
        queue.rejoin(waiter)
    assert list(queue) == [first, second, third]


def test_one_that_found_a_dead_connection_before_it_queued_has_its_place_by_arrival() -> None:
    queue, (first, second) = line(1, 3)
    late = Waiter(2, 1)
    queue.rejoin(late)
    assert list(queue) == [first, late, second]


def test_a_waiter_sleeps_until_it_is_woken() -> None:
    queue, (waiter,) = line(0)
    assert not waiter.wait(0)
    queue.let_go(waiter)
    queue.let_go(waiter)
    assert waiter.wait(0)
    assert not waiter.wait(0)


def test_who_stands_in_line_again_is_not_woken_by_what_was_meant_for_the_last_time() -> None:
    queue, (waiter,) = line(0)
    queue.let_go(waiter)
    again = waiter.again()
    waiter.wake()
    assert again.slot is None
    assert not again.wait(0)


def test_a_wait_longer_than_the_platform_knows_is_possible() -> None:
    queue, (waiter,) = line(0)
    queue.let_go(waiter)
    assert waiter.wait(float("inf"))
