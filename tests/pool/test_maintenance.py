"""The background thread as such."""

from __future__ import annotations

import os
import selectors
import threading
import weakref
from typing import Any
from unittest import mock

import pytest

from tests import inside
from tests.inside import NEVER, HookedMaintenance, Maintenance
from tests.pool.real.helpers import DEADLINE, until

FAR = 1e9  # on the monotonic clock
AT_ONCE = -NEVER


class Leaving(HookedMaintenance):
    """Its thread takes its time between knowing that it has to end and ending."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves, self.may_leave = threading.Event(), threading.Event()

    def ends(self) -> None:
        self.leaves.set()
        self.may_leave.wait(DEADLINE)


class Served:
    has_orphans = False

    def __init__(self) -> None:
        self.ticked = threading.Event()

    def tick(self) -> None:
        self.ticked.set()


def test_a_thread_that_takes_its_time_to_end_before_a_fork_has_a_successor_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.tune(monkeypatch, parking=0.0)
    maintenance, served = Leaving(), Served()
    ref = weakref.ref(served)
    maintenance.schedule(ref, NEVER)  # type: ignore[arg-type]
    first = inside.thread_of(maintenance)
    inside.tell_to_end(maintenance)
    assert maintenance.leaves.wait(DEADLINE)
    maintenance.park()
    maintenance.resume()
    try:
        assert first is not None
        assert first.is_alive()
        maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
        assert served.ticked.wait(DEADLINE)
    finally:
        maintenance.may_leave.set()
        maintenance.dismiss(ref)  # type: ignore[arg-type]
        first.join(DEADLINE)
    assert not first.is_alive()


class Counted(Maintenance):
    pokes = 0

    def poke(self) -> None:
        self.pokes += 1
        super().poke()


def sleeps_until(maintenance: Maintenance, at: float) -> None:
    until(lambda: inside.sleeps_until(maintenance) == at)


def test_only_a_deadline_before_the_others_wakes_the_thread() -> None:
    maintenance, first, second = Counted(), Served(), Served()
    for served in (first, second):
        maintenance.schedule(weakref.ref(served), NEVER)  # type: ignore[arg-type]
    maintenance.schedule(weakref.ref(first), FAR)  # type: ignore[arg-type]
    sleeps_until(maintenance, FAR)
    maintenance.pokes = 0
    maintenance.schedule(weakref.ref(second), FAR + 1)  # type: ignore[arg-type]
    assert maintenance.pokes == 0
    maintenance.schedule(weakref.ref(second), AT_ONCE)  # type: ignore[arg-type]
    assert maintenance.pokes == 1
    assert second.ticked.wait(DEADLINE)
    assert not first.ticked.is_set()
    maintenance.park()


def test_a_tick_that_asks_for_the_next_one_does_not_wake_its_own_thread() -> None:
    maintenance, served = Counted(), Served()
    ref = weakref.ref(served)
    served.tick = lambda: maintenance.schedule(ref, FAR)  # type: ignore[method-assign, arg-type]
    maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
    sleeps_until(maintenance, FAR)
    assert maintenance.pokes == 1  # by the first, since the thread had not known it
    maintenance.park()


def test_a_deadline_of_years_is_one_like_others(caplog: pytest.LogCaptureFixture) -> None:
    """`max_lifetime=1e9` says "for ever". poll() would refuse to wait for so long."""
    maintenance, served = Maintenance(), Served()
    ref = weakref.ref(served)
    maintenance.schedule(ref, FAR)  # type: ignore[arg-type]
    sleeps_until(maintenance, FAR)
    maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
    assert served.ticked.wait(DEADLINE)
    maintenance.park()
    assert not caplog.messages


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="there is no epoll")
def test_going_to_sleep_is_one_call_that_lets_go_of_the_interpreters_lock() -> None:
    assert inside.selector_of_maintenance() is selectors.PollSelector


def test_a_pool_that_is_new_is_looked_at_and_so_are_the_chores() -> None:
    maintenance, served, called = Maintenance(), Served(), threading.Event()
    maintenance.chores.append(lambda now: called.set() or NEVER)  # type: ignore[func-returns-value]
    maintenance.schedule(weakref.ref(served), FAR)  # type: ignore[arg-type]
    assert called.wait(DEADLINE)
    maintenance.park()


def test_a_finalizer_in_the_thread_itself_is_in_time_with_its_deadline() -> None:
    maintenance, far, near = Maintenance(), Served(), Served()
    ref, todo = weakref.ref(near), [AT_ONCE]

    class Interrupted(dict[Any, float]):
        def values(self) -> Any:
            found = list(super().values())
            while todo:
                maintenance.schedule(ref, todo.pop())  # type: ignore[arg-type]
            return found

    inside.set_deadlines(maintenance, Interrupted({ref: NEVER}))
    maintenance.schedule(weakref.ref(far), FAR)  # type: ignore[arg-type]
    assert near.ticked.wait(DEADLINE)
    maintenance.park()


def test_an_interrupt_while_it_parks_ends_no_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    maintenance, served = Maintenance(), Served()
    ref = weakref.ref(served)
    maintenance.schedule(ref, FAR)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            maintenance.park()
    maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
    assert served.ticked.wait(DEADLINE)
    maintenance.park()


def test_a_thread_that_an_interrupt_kept_from_starting_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maintenance, served = Maintenance(), Served()
    ref = weakref.ref(served)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
    maintenance.park()
    maintenance.attend(ref)  # type: ignore[arg-type]
    assert served.ticked.wait(DEADLINE)
    maintenance.park()


def test_descriptors_that_somebody_closed_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As daemons do that close all they have: poll() says of such that there is news."""
    inside.tune(monkeypatch, failure_pause=0.01)
    maintenance, served = Maintenance(), Served()
    ref = weakref.ref(served)
    maintenance.schedule(ref, FAR)  # type: ignore[arg-type]
    sleeps_until(maintenance, FAR)
    maintenance.park()
    for end in inside.pipe_of(maintenance):
        os.close(end)
    # Not those numbers, which somebody else may be given meanwhile.
    inside.set_pipe(maintenance, (1_000_000, 1_000_000))
    maintenance.resume()
    until(lambda: "the maintenance thread failed, and goes on" in caplog.messages)
    thread = inside.thread_of(maintenance)
    assert thread is not None
    maintenance.dismiss(ref)  # type: ignore[arg-type]
    thread.join(DEADLINE)
    assert not thread.is_alive()
