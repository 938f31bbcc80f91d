"""Which folders the processes of a host may share a bound in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.inside import folder, ledger


def refused(path: Path) -> str:
    with pytest.raises(ledger.Unusable) as caught:
        folder.prepare(path)
    return str(caught.value)


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    folder.prepare(path)
    folder.prepare(path)
    assert path.stat().st_mode & 0o777 == 0o700


def test_one_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert refused(tmp_path) == (
        f"{tmp_path} is open to other users (mode 0755): chmod 700 {tmp_path}"
    )


def test_a_file_and_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert "cannot be made" in refused(tmp_path / "file")
    assert "is not a folder" in refused(tmp_path / "link")


def test_one_that_cannot_be_made_is_told_with_the_way_out(tmp_path: Path) -> None:
    text = refused(tmp_path / "missing" / "folder")
    assert text.endswith("set CONNPOOL_HOST_DIR to a folder of this user's")
    assert "No such file or directory" in text


def test_one_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert f"belongs to uid {owner}" in refused(tmp_path)


def test_a_relative_one_is_refused() -> None:
    assert "has to be an absolute path" in refused(Path("shared"))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "virtiofs"])
def test_one_that_other_machines_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    place = tmp_path / "with space"
    shown = str(place).replace(" ", "\\040")
    mounts.write_text(f"proc / ext4 rw 0 0\nserver:/x {shown} {kind} rw 0 0\n")
    monkeypatch.setattr(folder, "MOUNTS", mounts)
    folder.prepare(tmp_path / "local")
    place.mkdir(mode=0o700)
    assert f"is on {kind}, where locks do not bind everybody" in refused(place / "in it")


def test_the_usual_one_can_be_used() -> None:
    assert folder.file_system(folder.default().parent) == "tmpfs"
