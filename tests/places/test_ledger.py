"""The file of a bound: places are as long as their process, whatever becomes of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import inside
from tests.inside import ledger
from tests.inside import places as tenants

NOW = 1000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "a.places"


@pytest.fixture
def join(path: Path) -> Iterator[Any]:
    joined: list[Any] = []

    def one(bound: int = 3, now: float = NOW) -> Any:
        joined.append(ledger.Ledger(path, bound, "pool", now))
        return joined[-1]

    yield one
    for member in joined:
        member.forget()


def claim(**changes: Any) -> Any:
    return tenants.Claim(0, **changes)


def test_a_place_has_one_holder(join: Any) -> None:
    one, other = join(), join()
    assert [one.take(range(3), NOW), other.take(range(3), NOW)] == [0, 1]
    assert other.take([0], NOW) is None
    one.free(0, NOW)
    assert other.take([0], NOW) == 0


def test_a_member_takes_no_place_twice(join: Any) -> None:
    one = join()
    assert [one.take(range(2), NOW) for _ in range(3)] == [0, 1, None]


def test_a_place_whose_holder_died_rests_until_the_server_has_noticed(join: Any) -> None:
    dead, heir = join(), join()
    dead.take([0], NOW)
    inside.die(dead)
    assert heir.take([0], NOW) is None
    assert heir.take([0], NOW + ledger.AFTER_DEATH - 0.01) is None
    assert heir.take([0], NOW + ledger.AFTER_DEATH + 0.01) == 0
    assert heir.lost == 1


def test_a_place_of_a_time_before_the_machine_was_started_is_free(join: Any) -> None:
    one, other = join(), join()
    one.take([0], NOW)
    one.free(0, NOW, rest=ledger.AFTER_DEATH)
    assert other.take([0], 1.0) == 0  # the clock has begun anew


def test_a_place_that_rests_is_had_afterwards(join: Any) -> None:
    one, other = join(), join()
    one.take([0], NOW)
    one.free(0, NOW, rest=0.25)
    assert other.take([0], NOW + 0.2) is None
    assert other.take([0], NOW + 0.3) == 0


def test_members_read_what_others_say(join: Any) -> None:
    one, other = join(bound=5), join()
    one.take(range(2), NOW)
    one.say(claim(waiting=4, wants=2, since=NOW - 1), 2, NOW)
    (record,) = other.others(NOW)
    assert (record.claim.held, record.claim.waiting, record.claim.wants) == (1, 4, 2)
    assert (record.claim.since, record.pid, record.name) == (NOW - 1, os.getpid(), "pool")
    assert (record.bound, record.pace) == (5, 2)


def test_a_silent_member_wants_nothing_and_keeps_what_it_has(join: Any) -> None:
    stopped, other = join(), join()
    stopped.take([0], NOW)
    stopped.say(claim(waiting=4, wants=2, since=NOW), 2, NOW)
    (record,) = other.others(NOW + 10)
    assert (record.claim.held, record.claim.wants, record.pace) == (1, 0, 0)
    assert other.take([0], NOW + 10) is None


def test_a_dead_member_is_none(join: Any) -> None:
    dead, other = join(), join()
    dead.say(claim(waiting=4, wants=2, since=NOW), 2, NOW)
    inside.die(dead)
    assert other.others(NOW + 10) == []


def test_a_bell_is_heard(join: Any) -> None:
    one, other = join(), join()
    bell = one.hang_bell()
    other.hang_bell()
    with pytest.raises(BlockingIOError):
        bell.recv(1)
    other.ring(one.number)
    assert bell.recv(1) == b"!"
    other.ring(one.number)
    one.silence_bell()
    with pytest.raises(BlockingIOError):
        bell.recv(1)


def test_nobody_minds_a_bell_that_is_not_there(join: Any) -> None:
    one = join()
    one.hang_bell()
    one.ring(7)


def test_a_file_that_was_removed_is_noticed(join: Any, path: Path) -> None:
    one = join()
    assert one.is_there()
    path.unlink()
    assert not one.is_there()
    assert join().is_there()
    assert not one.is_there()


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_bytes(b"something else entirely".ljust(64))
    with pytest.raises(ledger.Unusable, match="is not a file of this version's: remove it"):
        ledger.Ledger(path, 3, "pool", NOW)


def test_a_full_disk_is_told_before_anything_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ledger.Unusable, match="cannot be written: No space left on device"):
        ledger.Ledger(path, 3, "pool", NOW)


def test_a_child_that_is_forked_has_no_place_and_its_parent_keeps_it(join: Any) -> None:
    parent, other = join(), join()
    parent.take([0], NOW)
    pid = os.fork()
    if not pid:
        parent.forget()
        os._exit(0)
    os.waitpid(pid, 0)
    assert other.take([0], NOW) is None


def _hold(path: Path, ready: Any) -> None:
    member = ledger.Ledger(path, 3, "pool", NOW)
    member.take([0], NOW)
    ready.set()
    signal.pause()


@pytest.mark.e2e
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_gone_holds_nothing_and_one_that_is_stopped_does(
    join: Any, path: Path, end: int
) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(path, ready), daemon=True)
    process.start()
    other = join()
    try:
        assert ready.wait(30)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        assert other.take([0], NOW) is None
    finally:
        os.kill(process.pid or 0, signal.SIGKILL if end == signal.SIGKILL else signal.SIGCONT)
        os.kill(process.pid or 0, end)
        process.join(30)
    assert other.take([0], NOW) is None  # it rests
    assert other.take([0], NOW + 2) == 0
