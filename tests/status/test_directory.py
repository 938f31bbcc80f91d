from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from django_connpool.status import directory
from django_connpool.status.directory import UnsafeDirectory


@pytest.fixture
def unconfigured(settings: Any, status_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No CONNPOOL_STATUS_DIR; `<here>/run` is the runtime directory, `<here>` the temporary one."""
    del settings.CONNPOOL_STATUS_DIR
    (status_dir / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(status_dir / "run"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(status_dir))
    return status_dir


def test_the_setting_is_the_only_place(status_dir: Path) -> None:
    assert directory.candidates() == [status_dir]


def test_without_it_the_runtime_directory_comes_first_and_the_temporary_one_last(
    unconfigured: Path,
) -> None:
    places = directory.candidates()
    assert places[0] == unconfigured / "run" / "django-connpool"
    assert places[-1] == unconfigured / f"django-connpool-{os.getuid()}"


@pytest.mark.parametrize("runtime", ["", "relative", "/there/is/no/such/directory"])
def test_a_runtime_directory_that_is_none_is_passed_over(
    unconfigured: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    places = directory.candidates()
    assert Path(runtime) / "django-connpool" not in places
    assert places[-1] == unconfigured / f"django-connpool-{os.getuid()}"


def test_a_missing_directory_is_made_for_this_user_only(unconfigured: Path) -> None:
    path = directory.prepare()
    assert path == unconfigured / "run" / "django-connpool"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert directory.prepare() == path


def test_the_next_place_is_taken_when_the_first_cannot_be_made(
    unconfigured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unconfigured / "run" / "django-connpool").write_text("in the way")
    monkeypatch.setattr(directory, "candidates", lambda: candidates)
    candidates = [unconfigured / "run" / "django-connpool", unconfigured / "temporary"]
    assert directory.prepare() == unconfigured / "temporary"


def refused(settings: Any, path: object) -> str:
    settings.CONNPOOL_STATUS_DIR = path
    with pytest.raises(UnsafeDirectory) as refusal:
        directory.prepare()
    return str(refusal.value)


def test_a_symbolic_link_is_refused(status_dir: Path, settings: Any) -> None:
    (status_dir / "target").mkdir(mode=0o700)
    (status_dir / "link").symlink_to(status_dir / "target")
    assert "is a symbolic link" in refused(settings, status_dir / "link")


def test_a_file_is_refused(status_dir: Path, settings: Any) -> None:
    (status_dir / "file").write_text("")
    assert "is not a directory" in refused(settings, status_dir / "file")


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o770, 0o777])
def test_a_directory_open_to_others_is_refused(status_dir: Path, mode: int) -> None:
    status_dir.chmod(mode)
    with pytest.raises(UnsafeDirectory, match=f"mode {mode:04o}.*chmod 700"):
        directory.prepare()


@pytest.mark.parametrize("shared_by", ["everyone", "other files", "everyone and its owner"])
def test_nobody_is_told_to_close_a_directory_that_others_use(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, shared_by: str
) -> None:
    status_dir.chmod(0o755 if shared_by == "other files" else 0o1777)
    if shared_by == "other files":
        (status_dir / "index.html").write_text("served by somebody")
    if shared_by == "everyone and its owner":
        stranger = os.getuid() + 1
        monkeypatch.setattr("os.getuid", lambda: stranger)
    told = refused(settings, status_dir)
    assert "chmod" not in told
    assert f"set CONNPOOL_STATUS_DIR to a directory inside it, {status_dir}/connpool" in told
    # That helps: it is made, for this user alone.
    monkeypatch.undo()
    settings.CONNPOOL_STATUS_DIR = status_dir / "connpool"
    assert directory.prepare() == status_dir / "connpool"


def test_a_directory_of_someone_else_is_refused(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = os.getuid() + 1
    monkeypatch.setattr("os.getuid", lambda: stranger)
    with pytest.raises(UnsafeDirectory, match=f"runs as uid {stranger}"):
        directory.prepare()


def test_a_relative_path_is_refused(settings: Any) -> None:
    assert "absolute path" in refused(settings, "run/status")


def test_a_path_too_long_for_a_socket_is_refused(status_dir: Path, settings: Any) -> None:
    assert "too long for a Unix socket" in refused(settings, status_dir / ("x" * 107))
    assert list(status_dir.iterdir()) == []


def test_a_missing_parent_is_named(status_dir: Path, settings: Any) -> None:
    assert "cannot be made: No such file" in refused(settings, status_dir / "missing" / "child")


def test_sockets_are_named_by_pid_project_and_place() -> None:
    path = directory.socket_path(Path("/run/x"), 4711)
    name = directory.socket_name(path)
    assert name is not None
    assert name.pid == 4711
    assert name.is_of_this_project
    assert name.is_of_this_kernel
    assert path == directory.socket_path(Path("/run/x"), 4711)


def test_the_longest_name_fits_in_what_is_allowed_for() -> None:
    longest = directory.socket_path(Path("/run/x"), 4194304).name  # the largest pid of Linux
    assert len(longest) == len(directory.LONGEST_SOCKET_NAME)


def test_a_name_of_an_earlier_version_may_be_of_any_project() -> None:
    name = directory.socket_name(Path("/run/x/4711.sock"))
    assert name == directory.Name(4711, "", "", "")
    assert name.is_of_this_project
    assert name.is_of_this_kernel


@pytest.mark.parametrize(
    "name",
    ["4711.new", "shop.sock", ".sock", "4711", "-1.sock", "²3.sock", "4711-shop.sock", "1-.sock"],
)
def test_other_names_belong_to_no_process(name: str) -> None:
    assert directory.socket_name(Path("/run/x") / name) is None
