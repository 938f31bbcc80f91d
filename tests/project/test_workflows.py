"""The workflows run what README and CONTRIBUTING say, with actions that nobody can exchange."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github"
WORKFLOWS = sorted(FOLDER.glob("workflows/*.yml"))
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the sdist comes without .github")


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def commands() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is run, and the job that it is a part of."""
    for path in WORKFLOWS:
        for job in jobs(path).values():
            yield from ((step["run"], job) for step in job["steps"] if "run" in step)


def tox() -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None)
    read.read(ROOT / "tox.ini")
    return read


def labels() -> set[str]:
    return set(re.findall(r"^([\w-]+) =", tox()["tox"]["labels"], re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_and_says_its_version(path: Path) -> None:
    uses = [line.strip("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not PINNED.search(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_read_only_and_ends(path: Path) -> None:
    whole = yaml.safe_load(path.read_text())
    assert whole["permissions"] == {"contents": "read"}
    for name, job in whole["jobs"].items():
        assert job["timeout-minutes"], name
        assert job.get("permissions", {}) in ({}, {"id-token": "write"})
        for step in job["steps"]:
            if "checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_the_command_of_readme_is_run() -> None:
    readme = re.findall(r"```console\n(.+)\n```", (ROOT / "README.md").read_text())
    (command,) = [line for line in readme if line.endswith(".venv/bin/tox")]
    assert command in [run for run, _ in commands()]


def test_each_label_that_takes_longer_is_run() -> None:
    (matrix,) = [job["strategy"]["matrix"] for _, job in commands() if "-m ${{" in _]
    assert set(matrix["label"]) == labels() - {"all"}


def test_each_environment_that_is_named_exists() -> None:
    named = {name for run, _ in commands() for name in re.findall(r"tox -e (\S+)", run)}
    assert named == {"package"}
    assert "testenv:package" in tox()


def test_the_templates_ask_for_the_report() -> None:
    for path in FOLDER.glob("ISSUE_TEMPLATE/[!c]*.yml"):
        fields = yaml.safe_load(path.read_text())["body"]
        assert any("poolstatus --report" in str(field) for field in fields), path.name
    assert yaml.safe_load((FOLDER / "dependabot.yml").read_text())["version"] == 2
