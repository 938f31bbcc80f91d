"""The background thread as such."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import pytest

from tests import inside
from tests.inside import NEVER, Background, HookedBackground
from tests.pool.real.helpers import DEADLINE, run_python, until

FAR = 1e9  # on the monotonic clock
AT_ONCE = -NEVER


class Leaving(HookedBackground):
    """Its thread takes its time between knowing that it has to end and ending."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves, self.may_leave = threading.Event(), threading.Event()

    def ends(self) -> None:
        self.leaves.set()
        self.may_leave.wait(DEADLINE)


class Served:
    """A task that was never due before it is due once."""

    def __init__(self) -> None:
        self.ran = threading.Event()

    def run(self, now: float) -> float:
        self.ran.set()
        return NEVER


def test_a_thread_that_takes_its_time_to_end_before_a_fork_has_a_successor_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.tune(monkeypatch, parking=0.0)
    background, served = Leaving(), Served()
    ticket = background.join(served)
    ticket.by(NEVER)
    first = inside.thread_of(background)
    inside.tell_to_end(background)
    assert background.leaves.wait(DEADLINE)
    background.park()
    background.resume()
    try:
        assert first is not None
        assert first.is_alive()
        ticket.by(AT_ONCE)
        assert served.ran.wait(DEADLINE)
    finally:
        background.may_leave.set()
        ticket.leave()
        first.join(DEADLINE)
    assert not first.is_alive()


class Counted(Background):
    pokes = 0

    def poke(self) -> None:
        self.pokes += 1
        super().poke()


def sleeps_until(background: Background, at: float) -> None:
    until(lambda: inside.sleeps_until(background) == at)


def test_only_a_deadline_before_the_others_wakes_the_thread() -> None:
    background, first, second = Counted(), Served(), Served()
    its, others = background.join(first), background.join(second)
    its.by(FAR)
    sleeps_until(background, FAR)
    background.pokes = 0
    others.by(FAR + 1)
    assert background.pokes == 0
    others.by(AT_ONCE)
    assert background.pokes == 1
    assert second.ran.wait(DEADLINE)
    assert not first.ran.is_set()
    background.park()


def test_a_task_that_asks_for_its_next_time_does_not_wake_its_own_thread() -> None:
    background = Counted()

    class Asking:
        def run(self, now: float) -> float:
            background.pokes = 0
            ticket.by(FAR)
            return FAR + 1

    ticket = background.join(asking := Asking())
    ticket.by(AT_ONCE)
    sleeps_until(background, FAR)
    assert background.pokes == 0
    background.park()
    del asking


def test_a_task_that_is_gone_leaves_by_itself() -> None:
    background, served = Background(), Served()
    background.join(served).by(FAR)
    thread = inside.thread_of(background)
    sleeps_until(background, FAR)
    del served
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_who_leaves_while_it_runs_has_left() -> None:
    background = Background()

    class Leaver:
        def run(self, now: float) -> float:
            ticket.leave()
            return now

    ticket = background.join(leaver := Leaver())
    ticket.by(AT_ONCE)
    thread = inside.thread_of(background)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    del leaver


def test_who_has_left_is_run_when_called_and_keeps_no_thread() -> None:
    background, served, host = Background(), Served(), Served()
    ticket, its_host = background.join(served), background.join(host)
    its_host.by(FAR)
    thread = inside.thread_of(background)
    ticket.by(FAR)
    ticket.leave()
    ticket.now()
    assert served.ran.wait(DEADLINE)
    its_host.leave()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_task_that_does_not_last_is_run_as_long_as_there_are_others() -> None:
    background, guest, host = Background(), Served(), Served()
    background.join(guest, lasts=False).by(AT_ONCE)
    assert inside.thread_of(background) is None
    ticket = background.join(host)
    ticket.by(FAR)
    thread = inside.thread_of(background)
    assert guest.ran.wait(DEADLINE)
    ticket.leave()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_task_that_fails_is_run_again_and_so_are_the_others_that_were_called(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inside.tune(monkeypatch, failure_pause=0.0)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # as it does for SystemExit
    background, served = Background(), Served()

    class Failing:
        errors: ClassVar[list[type[BaseException]]] = [error]

        def run(self, now: float) -> float:
            if self.errors:
                raise self.errors.pop()
            its_other.now()
            return NEVER

    ticket, its_other = background.join(failing := Failing()), background.join(served)
    ticket.by(AT_ONCE)
    assert served.ran.wait(DEADLINE)
    assert not failing.errors
    background.park()
    assert len(caplog.messages) == (error is ZeroDivisionError)


def test_a_deadline_of_years_is_one_like_others(caplog: pytest.LogCaptureFixture) -> None:
    """`max_lifetime=1e9` says "for ever". poll() would refuse to wait for so long."""
    background, served = Background(), Served()
    ticket = background.join(served)
    ticket.by(FAR)
    sleeps_until(background, FAR)
    ticket.by(AT_ONCE)
    assert served.ran.wait(DEADLINE)
    background.park()
    assert not caplog.messages


def test_it_goes_on_when_the_process_has_no_descriptors_left() -> None:
    run_python(
        """
    import os, resource, threading, time
    from tests.inside import background

    class Task:
        def run(self, now):
            ran.set()
            return float("inf")

    ran, task = threading.Event(), Task()
    ticket = background.join(task)
    ticket.by(time.monotonic() + 3600)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    opened = []
    try:
        while True:
            opened.append(os.dup(0))
    except OSError:
        pass
    for _ in range(3):
        ran.clear()
        ticket.by(0.0)
        assert ran.wait(20)
    for one in opened:
        os.close(one)
    """
    )


def test_a_task_that_was_called_before_there_was_a_thread_is_run_once_there_is() -> None:
    background, served = Background(), Served()
    ticket = background.join(served)
    ticket.now()
    assert inside.thread_of(background) is None
    ticket.by(FAR)
    assert served.ran.wait(DEADLINE)
    background.park()


def test_a_finalizer_in_the_thread_itself_is_in_time_with_its_deadline() -> None:
    background, far, near = Background(), Served(), Served()
    ticket, todo = background.join(near), [AT_ONCE]

    class Interrupted(dict[Any, float]):
        def values(self) -> Any:
            found = list(super().values())
            while todo:
                ticket.by(todo.pop())
            return found

    inside.set_deadlines(background, Interrupted({ticket: NEVER}))
    background.join(far).by(FAR)
    assert near.ran.wait(DEADLINE)
    background.park()


def test_an_interrupt_while_it_parks_ends_no_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    background, served = Background(), Served()
    ticket = background.join(served)
    ticket.by(FAR)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            background.park()
    ticket.by(AT_ONCE)
    assert served.ran.wait(DEADLINE)
    background.park()


def test_a_thread_that_an_interrupt_kept_from_starting_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    background, served = Background(), Served()
    ticket = background.join(served)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ticket.by(AT_ONCE)
    background.park()
    ticket.attend()
    assert served.ran.wait(DEADLINE)
    background.park()


def test_descriptors_that_somebody_closed_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As daemons do that close all they have: poll() says of such that there is news."""
    inside.tune(monkeypatch, failure_pause=0.01)
    background, served = Background(), Served()
    ticket = background.join(served)
    ticket.by(FAR)
    sleeps_until(background, FAR)
    background.park()
    for end in inside.pipe_of(background):
        os.close(end)
    # Not those numbers, which somebody else may be given meanwhile.
    inside.set_pipe(background, (1_000_000, 1_000_000))
    background.resume()
    until(lambda: "the maintenance thread failed, and goes on" in caplog.messages)
    thread = inside.thread_of(background)
    assert thread is not None
    ticket.leave()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def interrupt(resume: Callable[[], None]) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("as_it_parks", "done"),
    [
        (lambda resume: None, ["parked", "resumed"]),
        (lambda resume: resume(), ["parked", "resumed", "resumed"]),
        (interrupt, ["parked", "resumed"]),
    ],
    ids=["nothing", "another fork", "an interrupt"],
)
def test_after_a_fork_the_thread_goes_on_whatever_came_by_as_it_was_parked(
    monkeypatch: pytest.MonkeyPatch,
    as_it_parks: Callable[[Callable[[], None]], None],
    done: list[str],
) -> None:
    assert inside.parked_and_resumed(monkeypatch, as_it_parks) == done
