"""The second chance of a test that failed: what it may hide, and what it must tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLAKY = """
import pathlib

def test_good():
    pass

def test_flaky():
    seen = pathlib.Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""
BROKEN = """
def test_broken():
    raise AssertionError("each time")
"""

Again = Callable[..., tuple[int, str]]


@pytest.fixture
def again(tmp_path: Path) -> Again:
    """A function that runs some text as tests; returns the exit status and what was printed."""

    def run(text: str, *arguments: str, name: str = "test_it.py") -> tuple[int, str]:
        (tmp_path / name).write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        # What it starts is not the package: no line of it is counted, no plugin is asked for.
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("DJANGO_SETTINGS_MODULE", "PYTHONDEVMODE")
            and not key.startswith(("COV_", "COVERAGE_"))
        }
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["PYTHONPATH"] = str(ROOT)
        environment["TEST_FLAKY_LOG"] = str(log(tmp_path))
        command = [sys.executable, "-m", "tests.again", "-p", "xdist", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def log(folder: Path) -> Path:
    return folder / "flaky"


def test_what_passes_alone_is_told_with_its_first_failure(again: Again, tmp_path: Path) -> None:
    code, printed = again(FLAKY)

    assert code == 0, printed
    closing = printed[printed.index(" FLAKY in ") :]
    assert "FLAKY test_it.py::test_flaky" in closing
    assert "AssertionError: the first time" in closing
    (line,) = log(tmp_path).read_text().splitlines()
    assert json.loads(line)["test"] == "test_it.py::test_flaky"


def test_only_what_failed_is_run_again(again: Again) -> None:
    _, printed = again(FLAKY, "-n", "2", "--durations=3")

    assert "1 failed, 1 passed" in printed
    assert "Once more, alone: test_it.py::test_flaky\n" in printed
    assert "2 workers" not in printed.partition("Once more")[2]


def test_what_fails_again_has_failed(again: Again, tmp_path: Path) -> None:
    code, printed = again(FLAKY + BROKEN)

    assert code == 1
    assert "FLAKY test_it.py::test_flaky" in printed
    assert "FLAKY test_it.py::test_broken" not in printed


def test_where_many_fail_nothing_is_run_again(again: Again) -> None:
    many = "".join(BROKEN.replace("broken", f"broken_{number}") for number in range(11))

    code, printed = again(many)

    assert code == 1
    assert "Once more" not in printed


@pytest.mark.parametrize(
    ("text", "expected"), [("import nothing_of_that_name", 2), ("# no test at all", 5)]
)
def test_what_did_not_run_is_no_success(text: str, expected: int, again: Again) -> None:
    assert again(text)[0] == expected
