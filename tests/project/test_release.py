"""What `.ci/release.py` does to CHANGELOG.md, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "release.py"
URLS = """
[project.urls]
Changelog = "https://example.org/changes"
Documentation = "https://example.org/docs"
Issues = "https://example.org/issues"
Source = "https://example.org"
"""

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the sdist comes without .ci")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """This project as it is, with a home."""
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + URLS)
    return tmp_path


def release(root: Path, *args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *args, "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_unreleased_goes_under_the_version_and_nothing_is_lost(root: Path) -> None:
    before = (root / "CHANGELOG.md").read_text()
    code, said = release(root, "prepare", "7.0.0")
    assert (code, "git tag -a v7.0.0" in said) == (0, True)
    lines = (root / "CHANGELOG.md").read_text().splitlines()
    at = lines.index("## [Unreleased]")
    assert lines[at + 1] == ""
    assert lines[at + 2].startswith("## [7.0.0] - 20")
    assert lines[: at + 1] + lines[at + 3 :] == before.splitlines()
    assert release(root, "check", "7.0.0")[0] == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("prepare", "v7.0.0"), "is no version"),
        (("prepare", "7.0"), "is no version"),
        (("check", "7.0.0"), "has no section for 7.0.0"),
    ],
)
def test_what_is_wrong_is_refused(args: tuple[str, ...], reason: str, root: Path) -> None:
    before = (root / "CHANGELOG.md").read_text()
    code, said = release(root, *args)
    assert (code, reason in said) == (1, True), said
    assert (root / "CHANGELOG.md").read_text() == before


def test_nothing_is_released_twice_nor_without_a_change(root: Path) -> None:
    release(root, "prepare", "7.0.0")
    assert "nothing is unreleased" in release(root, "prepare", "7.1.0")[1]
    assert "has 7.0.0 already" in release(root, "prepare", "7.0.0")[1]


def test_nothing_is_released_without_a_home(root: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", root)
    if URLS.split()[0] in (root / "pyproject.toml").read_text():
        pytest.skip("it has one by now")
    assert "[project.urls] of pyproject.toml has no Changelog" in release(root, "check", "7.0.0")[1]
