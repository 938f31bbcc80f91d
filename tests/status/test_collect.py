from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from django_connpool.status import collect as collecting
from django_connpool.status import directory, origin
from django_connpool.status.collect import collect
from tests import inside
from tests.status.samples import answering, process


def problems(timeout: float = 10) -> list[str]:
    return [str(silence) for silence in collect(timeout).silent]


def dead(path: Path) -> Path:
    """The socket of a process that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(str(path))
    return path


def test_every_process_is_asked(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", process(pid=20)),
        answering(status_dir / "3.sock", process(pid=3)),
    ):
        found = collect()
    assert [answer["pid"] for answer in found.processes] == [3, 20]
    assert found.silent == []
    assert found.directories == [status_dir]


def test_a_directory_that_nobody_made_has_no_processes(status_dir: Path) -> None:
    status_dir.rmdir()
    found = collect()
    assert (found.processes, found.silent, found.refused) == ([], [], [])
    assert not status_dir.exists()


def test_an_unsafe_directory_is_not_read(status_dir: Path) -> None:
    status_dir.chmod(0o755)
    with answering(status_dir / "20.sock", process(pid=20)):
        found = collect()
    assert found.processes == []
    assert "chmod 700" in found.refused[0]


def test_all_places_are_looked_into(status_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [status_dir / "a", status_dir / "b"]
    monkeypatch.setattr("django_connpool.status.directory.candidates", lambda: places)
    for place in places:
        place.mkdir(mode=0o700)
    with answering(places[1] / "20.sock", process(pid=20)):
        assert [answer["pid"] for answer in collect().processes] == [20]


def test_the_socket_of_a_dead_process_is_removed(status_dir: Path) -> None:
    path = dead(status_dir / "20.sock")
    found = collect()
    assert (found.processes, found.silent) == ([], [])
    assert not path.exists()


def test_the_socket_a_new_process_put_in_its_place_is_not(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dead(status_dir / "20.sock")

    def replaced(*args: Any) -> bytes:
        # Beside the old one, so that it cannot get its inode.
        dead(status_dir / "new").rename(path)
        raise ConnectionRefusedError

    inside.reading_by(monkeypatch, replaced)
    collect()
    assert path.exists()


def test_a_process_that_ends_meanwhile_is_not_mentioned(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = (directory.Name(20, "", "", ""), status_dir / "20.sock")
    inside.sockets_are(monkeypatch, [gone])
    found = collect()
    assert (found.processes, found.silent) == ([], [])


def test_other_projects_are_neither_asked_nor_missed(status_dir: Path, settings: Any) -> None:
    ours = directory.socket_path(status_dir, 20)
    settings.CONNPOOL_PROJECT = "blog"
    theirs = directory.socket_path(status_dir, 20)
    hanging = directory.socket_path(status_dir, 21)
    del settings.CONNPOOL_PROJECT
    with (
        answering(ours, process(pid=20), None),
        answering(theirs, None),
        answering(hanging, None),
    ):
        found = collect(timeout=10)
        assert [answer["command"] for answer in found.processes] == [process()["command"]]
        assert (found.silent, found.elsewhere) == ([], 2)
        assert len(collect(timeout=0.2, all_projects=True).silent) == 3


def test_containers_that_share_a_folder_have_a_socket_each(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = [directory.socket_path(status_dir, 1)]
    monkeypatch.setattr(origin, "container", lambda: "pid:[4026532001]")
    sockets.append(directory.socket_path(status_dir, 1))
    monkeypatch.setattr(origin, "kernel", lambda: "another machine's")
    sockets.append(directory.socket_path(status_dir, 1))
    with ExitStack() as stack:
        for number, path in enumerate(sockets):
            stack.enter_context(answering(path, process(pid=1, host=f"web-{number}")))
        hosts = sorted(answer["host"] for answer in collect().processes)
    assert hosts == ["web-0", "web-1", "web-2"]


def test_a_socket_that_refuses_is_removed_when_its_process_was_on_this_kernel(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(origin, "container", lambda: "pid:[4026532001]")
        in_a_container = dead(directory.socket_path(status_dir, 1))
        patched.setattr(origin, "kernel", lambda: "another machine's")
        elsewhere = dead(directory.socket_path(status_dir, 1))
    found = collect()
    assert (found.processes, found.silent) == ([], [])
    assert not in_a_container.exists()
    assert elsewhere.exists()


def test_other_files_are_left_alone(status_dir: Path) -> None:
    files = {dead(status_dir / "shop.sock"), status_dir / "21.sock", status_dir / "notes"}
    (status_dir / "21.sock").write_text("a file")
    (status_dir / "notes").write_text("a file")
    found = collect()
    assert (found.processes, found.silent) == ([], [])
    assert set(status_dir.iterdir()) == files


def test_a_process_that_hangs_is_reported_and_the_others_are_shown(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", None),
        answering(status_dir / "21.sock", process(pid=21)),
    ):
        found = collect(timeout=1)
    assert [str(silence) for silence in found.silent] == ["pid 20 did not answer within 1 s"]
    assert [answer["pid"] for answer in found.processes] == [21]


def test_a_process_that_sends_drop_by_drop_is_not_waited_for_longer(status_dir: Path) -> None:
    path = status_dir / "20.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        enough = threading.Event()

        def drip() -> None:
            client, _ = listening.accept()
            # Until its reader has had enough; should that never be, for 10 s.
            with client, suppress(BrokenPipeError):
                for _ in range(500):
                    if enough.wait(0.02):
                        break
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert problems(0.2) == ["pid 20 did not answer within 0.2 s"]
        finally:
            enough.set()
            thread.join()


def test_another_version_is_reported(status_dir: Path) -> None:
    with answering(status_dir / "20.sock", process(version=2)):
        assert problems() == ["pid 20 speaks status version 2, this command version 1"]


def test_an_answer_that_breaks_off_is_reported(status_dir: Path) -> None:
    with answering(status_dir / "20.sock", json.dumps(process()).encode()[:-1]):
        assert problems() == ["pid 20 answered something that is not JSON"]


def test_an_endless_answer_is_reported(status_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_ANSWER_BYTES", 100)
    with answering(status_dir / "20.sock", b" " * 101):
        assert problems() == ["pid 20 answered more than 100 bytes"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), "is asked by too many at once"),
        (PermissionError(13, "Permission denied"), "could not be asked: Permission denied"),
    ],
)
def test_what_the_system_refuses_is_reported(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, problem: str
) -> None:
    def refuse(*args: Any) -> bytes:
        raise error

    dead(status_dir / "20.sock")
    inside.reading_by(monkeypatch, refuse)
    assert problems() == [f"pid 20 {problem}"]
