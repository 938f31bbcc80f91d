from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from django_connpool.status import directory, hands, server, snapshot
from django_connpool.status.collect import collect
from django_connpool.status.directory import socket_path
from tests import inside
from tests.pool.fake import FakeServer, working_pool
from tests.status.samples import answering
from tests.status.script import running


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this process nor another one has warned."""
    inside.warn_again(monkeypatch)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def pids() -> list[int]:
    return [process["pid"] for process in collect(timeout=10).processes]


def both(pid: int, place: Path) -> set[Path]:
    """The sockets of a process: on which it tells, and on which it is told."""
    path = socket_path(place, pid)
    return {path, path.with_suffix(directory.HAND)}


def test_nothing_is_written_before_the_process_has_a_pool(status_dir: Path) -> None:
    assert list(status_dir.iterdir()) == []


def test_a_process_answers_for_itself(status_dir: Path) -> None:
    server.start(signal=None, sender=None, pool=None)
    (process,) = collect(timeout=10).processes
    assert process["pid"] == os.getpid()
    assert process["host"] == socket.gethostname()
    assert process["settings"] == "tests.settings"
    assert process["started"] <= time.time()


def test_it_answers_again_and_again(status_dir: Path) -> None:
    server.start()
    assert [pids() for _ in range(3)] == [[os.getpid()]] * 3


def test_starting_twice_is_starting_once(status_dir: Path) -> None:
    server.start()
    inode = socket_path(status_dir, os.getpid()).stat().st_ino
    server.start()
    assert socket_path(status_dir, os.getpid()).stat().st_ino == inode
    assert set(status_dir.iterdir()) == both(os.getpid(), status_dir)


def test_the_socket_is_not_inherited_by_programs(status_dir: Path) -> None:
    server.start()
    assert not inside.socket_of(inside.listener()).get_inheritable()


def test_without_descriptors_it_does_not_spin(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    listener = inside.listener()

    class Exhausted:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    pauses: list[float] = []
    with monkeypatch.context() as patch:
        inside.set_socket(patch, listener, Exhausted())
        patch.setattr(server, "time", mock.Mock(wraps=time, sleep=pauses.append))
        listener.answer()
    assert pauses == [server.ACCEPT_PAUSE]


def test_stopping_removes_the_socket(status_dir: Path) -> None:
    server.start()
    server.stop()
    assert list(status_dir.iterdir()) == []
    server.stop()


@pytest.mark.parametrize("suffix", [".sock", ".new"])
def test_what_a_dead_process_with_this_pid_left_is_replaced(status_dir: Path, suffix: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(socket_path(status_dir, os.getpid()).with_suffix(suffix)))
    server.start()
    assert pids() == [os.getpid()]


def test_a_client_that_does_not_read_holds_nobody_up(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than the buffers of a socket take.
    big = {**snapshot.take(0.0), "padding": "x" * 4_000_000}
    answers = iter([big])
    take = snapshot.take
    monkeypatch.setattr(snapshot, "take", lambda started: next(answers, None) or take(started))
    monkeypatch.setattr(server, "CLIENT_SECONDS", 0.05)
    server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lazy:
        lazy.connect(str(socket_path(status_dir, os.getpid())))
        assert pids() == [os.getpid()]


def test_a_client_that_does_not_read_delays_nobody_who_waits_for_a_connection(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, asked = {**snapshot.take(0.0), "padding": "x" * 4_000_000}, threading.Event()
    monkeypatch.setattr(snapshot, "take", lambda started: asked.set() or big)
    monkeypatch.setattr(server, "CLIENT_SECONDS", 60.0)
    server.start()

    def lend_and_die() -> None:
        kept.append(pool.getconn())
        lent.set()
        while not pool.snapshot()["waiting"]:
            time.sleep(0.001)

    kept: list[Any] = []
    lent = threading.Event()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lazy,
        working_pool(FakeServer(), max_size=1) as pool,
    ):
        lazy.connect(str(socket_path(status_dir, os.getpid())))
        assert asked.wait(10)
        threading.Thread(target=lend_and_die).start()
        assert lent.wait(10)
        # Taken back from the thread that ended by the one that looks after all pools.
        pool.putconn(pool.getconn(timeout=30))


def slow_answers(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have each answer take until the second of these is set; the first says that one has begun."""
    take, asked, go_on = snapshot.take, threading.Event(), threading.Event()

    def slowly(started: float) -> Any:
        asked.set()
        go_on.wait(10)
        return take(started)

    monkeypatch.setattr(snapshot, "take", slowly)
    return asked, go_on


def test_who_asks_while_another_is_answered_has_an_answer_too(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = slow_answers(monkeypatch)
    server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(str(socket_path(status_dir, os.getpid())))
        assert asked.wait(10)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second:
            second.connect(str(socket_path(status_dir, os.getpid())))
            go_on.set()
            for client in (first, second):
                client.settimeout(10)
                assert json.load(client.makefile())["pid"] == os.getpid()


def test_who_stops_while_somebody_is_answered_answers_no_more(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = slow_answers(monkeypatch)
    server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(socket_path(status_dir, os.getpid())))
        assert asked.wait(10)
        server.stop()
        go_on.set()
        client.settimeout(10)
        assert json.load(client.makefile())["pid"] == os.getpid()
    while any(thread.name == "django-connpool-status" for thread in threading.enumerate()):
        time.sleep(0.001)
    assert not inside.reads()
    assert list(status_dir.iterdir()) == []


def test_a_client_that_goes_away_harms_nobody(status_dir: Path) -> None:
    server.start()
    for _ in range(5):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hasty:
            hasty.connect(str(socket_path(status_dir, os.getpid())))
    assert pids() == [os.getpid()]


def test_a_client_that_is_gone_before_it_is_greeted_is_no_error(status_dir: Path) -> None:
    server.start()
    inside.listener().answer()
    assert pids() == [os.getpid()]


def test_a_failing_snapshot_is_logged_once_and_the_next_one_answered(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(started: float) -> Any:
        raise LookupError("no numbers")

    server.start()
    for asked in range(2):
        inside.forget_bursts()  # a while later
        with monkeypatch.context() as patched:
            patched.setattr(snapshot, "take", fail)
            for _ in range(36):
                (silence,) = collect(timeout=10).silent
        assert silence.problem == "closed the connection without an answer"
        # The thread logs after it has hung up, and answers the next one after that.
        assert pids() == [os.getpid()]
        assert caplog.text.count("no answer could be given") == asked + 1


@pytest.mark.usefixtures("unwarned")
def test_an_unsafe_directory_is_one_warning_and_no_error(
    status_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    status_dir.chmod(0o755)
    server.start()
    server.start()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "chmod 700" in record.getMessage()
    assert list(status_dir.iterdir()) == []


@pytest.mark.usefixtures("unwarned")
def test_of_many_processes_with_the_same_to_say_one_warns(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="django_connpool.status")
    status_dir.chmod(0o755)

    def levels_of_processes(count: int) -> list[str]:
        caplog.clear()
        for _ in range(count):
            inside.warn_again(monkeypatch)
            inside.forget_bursts()
            server.start()
        return [record.levelname for record in caplog.records]

    assert levels_of_processes(36) == ["WARNING"] + ["INFO"] * 35
    # Something else is said anew, and so is the same after a while.
    status_dir.chmod(0o750)
    assert levels_of_processes(2) == ["WARNING", "INFO"]
    monkeypatch.setattr("django_connpool.status.directory.SAID_SECONDS", -1.0)
    assert levels_of_processes(1) == ["WARNING"]


@pytest.mark.usefixtures("unwarned")
def test_a_temporary_directory_that_cannot_be_written_keeps_nobody_from_warning(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(status_dir / "missing"))
    status_dir.chmod(0o755)
    server.start()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.usefixtures("unwarned")
def test_a_failing_watch_leaves_nothing_behind(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("cannot start a thread now")

    monkeypatch.setattr(server.background, "read", fail)
    server.start()
    assert "cannot start a thread now" in caplog.text
    assert list(status_dir.iterdir()) == []


@pytest.mark.usefixtures("unwarned")
def test_a_socket_that_cannot_be_made_leaves_nothing_behind(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "rename", fail)
    server.start()
    assert "disk full" in caplog.text
    assert list(status_dir.iterdir()) == []


def test_a_platform_without_unix_sockets_has_quietly_no_status(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(socket, "AF_UNIX")
        server.start()
    assert list(status_dir.iterdir()) == []
    assert caplog.records == []


def test_another_process_is_seen_and_its_socket_goes_with_it(status_dir: Path) -> None:
    with running("serve", status_dir) as process:
        assert pids() == [process.pid]
        process.communicate()
        assert process.returncode == 0
        assert list(status_dir.iterdir()) == []


def test_a_killed_process_leaves_a_socket_that_is_cleaned_up(status_dir: Path) -> None:
    with running("serve_then_crash", status_dir) as process:
        process.communicate()
        assert set(status_dir.iterdir()) == both(process.pid, status_dir)
        assert pids() == []
        assert list(status_dir.iterdir()) == []


def test_a_forked_child_forgets_the_socket_and_makes_its_own(status_dir: Path) -> None:
    with running("fork_while_serving", status_dir) as process:
        said = json.loads(process.said)  # type: ignore[attr-defined]
        assert said["forgot"]
        assert said["parent"] == process.pid
        assert pids() == sorted([said["parent"], said["child"]])
        process.communicate()
        assert process.returncode == 0
        # The child ended without its exit handlers, the parent with them.
        assert set(status_dir.iterdir()) == both(said["child"], status_dir)


# -- Clients and folders that are no good -------------------------------------------------


@pytest.fixture
def lending() -> Any:
    """A pool that has to be looked after: each loan is of a thread that ends without giving back.

    Calling it lends once, and fails if the pool does not get over it.
    """
    with working_pool(FakeServer(), max_size=1) as pool:

        def lend() -> None:
            kept: list[Any] = []
            lent = threading.Event()

            def borrow_and_end() -> None:
                kept.append(pool.getconn(timeout=30))
                lent.set()
                while not pool.snapshot()["waiting"]:
                    time.sleep(0.001)

            threading.Thread(target=borrow_and_end).start()
            assert lent.wait(30)
            # Taken back from the thread that ended by the one that looks after all pools.
            pool.putconn(pool.getconn(timeout=30))

        yield lend


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(str(path))
    return client


def status_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "django-connpool-status"]


@pytest.mark.parametrize("suffix", [".sock", ".hand"])
def test_five_hundred_clients_that_do_nothing_are_not_noticed_by_the_pool(
    status_dir: Path, lending: Any, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(hands, "READ_SECONDS", 0.001)
    server.start()
    path = socket_path(status_dir, os.getpid()).with_suffix(suffix)
    clients: list[socket.socket] = []
    most = 0
    for number in range(500):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(path))  # without a timeout: it waits for a place in line
        clients.append(client)
        most = max(most, len(status_threads()))
        if not number % 50:
            lending()
    assert most <= 20  # one a socket, and those before it that are about to end
    for client in clients:
        client.close()
    assert pids() == [os.getpid()]
    lending()


def test_five_hundred_clients_have_five_hundred_answers(status_dir: Path, lending: Any) -> None:
    server.start()
    path = socket_path(status_dir, os.getpid())
    answers: list[int] = []

    def ask() -> None:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(path))
                answers.append(json.load(client.makefile())["pid"])

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    lending()
    for thread in threads:
        thread.join(60)
    assert answers == [os.getpid()] * 500


@pytest.mark.parametrize("said", [b"\x00\xff" * 2000, b"GET / HTTP/1.1\r\n\r\n", b"[" * 100_000])
@pytest.mark.parametrize("suffix", [".sock", ".hand"])
def test_garbage_harms_nobody(status_dir: Path, lending: Any, said: bytes, suffix: str) -> None:
    server.start()
    path = socket_path(status_dir, os.getpid())
    with connect(path.with_suffix(suffix)) as client, suppress(OSError):  # it may hang up on it
        client.sendall(said)
        while client.recv(65536):
            pass
    lending()
    assert pids() == [os.getpid()]


def test_without_threads_nobody_is_answered_by_the_one_that_looks_after_the_pools(
    status_dir: Path, lending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered_in: list[str] = []
    take = snapshot.take
    monkeypatch.setattr(
        snapshot,
        "take",
        lambda started: answered_in.append(threading.current_thread().name) or take(started),
    )
    monkeypatch.setattr(server, "THREAD_PAUSE", 0.01)
    refused = threading.Event()

    class Thread(threading.Thread):
        def start(self) -> None:
            if self.name == "django-connpool-status" and not enough.is_set():
                refused.set()
                raise RuntimeError("can't start new thread")
            super().start()

    enough = threading.Event()
    monkeypatch.setattr(server, "threading", mock.Mock(wraps=threading, Thread=Thread))
    server.start()
    with connect(socket_path(status_dir, os.getpid())) as client:
        assert refused.wait(30)
        lending()
        enough.set()
        assert json.load(client.makefile())["pid"] == os.getpid()
    assert set(answered_in) == {"django-connpool-status"}


@pytest.mark.parametrize("gone", ["sock", "hand", "folder"])
def test_sockets_that_were_removed_come_back_with_the_next_connect(
    status_dir: Path, gone: str
) -> None:
    server.start()
    before = both(os.getpid(), status_dir)
    for path in before:
        if gone == "folder" or path.suffix == f".{gone}":
            path.unlink()
    if gone == "folder":
        status_dir.rmdir()
    server.start()
    assert set(status_dir.iterdir()) == before
    assert pids() == [os.getpid()]
    server.stop()
    assert list(status_dir.iterdir()) == []


def test_a_folder_that_is_gone_is_no_error_at_the_end(status_dir: Path, lending: Any) -> None:
    server.start()
    shutil.rmtree(status_dir)
    lending()
    server.stop()
    assert not inside.reads()


def test_a_folder_that_may_not_be_written_is_one_warning(status_dir: Path) -> None:
    with running("start_in_a_folder_that_is_read_only", status_dir) as process:
        said = json.loads(process.said)  # type: ignore[attr-defined]
    assert said["answers"] is False
    (warning,) = said["warnings"]
    assert "poolstatus will not see pid" in warning
    assert "Permission denied" in warning


@pytest.mark.usefixtures("unwarned")
@pytest.mark.parametrize("what", ["bind", "listen"])
def test_a_full_disk_is_one_warning_and_no_error(
    status_dir: Path,
    lending: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    class Full(socket.socket):
        pass

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(Full, what, fail)
    monkeypatch.setattr(server, "socket", SimpleNamespace(**{**vars(socket), "socket": Full}))
    server.start()
    server.start()
    lending()
    assert caplog.text.count("No space left on device") == 1
    assert list(status_dir.iterdir()) == []


def test_the_commands_socket_of_a_killed_process_is_removed_only_when_it_is_dead(
    status_dir: Path,
) -> None:
    path = socket_path(status_dir, 20)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with answering(path.with_suffix(directory.HAND)):
        assert pids() == []
        assert list(status_dir.iterdir()) == [path.with_suffix(directory.HAND)]
