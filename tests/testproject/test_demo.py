from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from demo.comparison import Comparison, Scale
from rich.console import Console

from tests.signals import ctrl_c_taken
from tests.testproject.processes import MARK, alive, wait_until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(place: Path) -> Path:
    """A copy of the project, with an embedded server of its own."""
    return shutil.copytree(
        ROOT / "testproject",
        place / "testproject",
        ignore=shutil.ignore_patterns(".postgres", "__pycache__"),
    )


def start(project: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    inherited.pop("DJANGO_SETTINGS_MODULE", None)
    with ctrl_c_taken():
        return subprocess.Popen(
            [sys.executable, str(project / "manage.py"), "demo", *arguments],
            env={**inherited, "PYTHONPATH": str(ROOT), MARK: str(project), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def run(project: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    process = start(project, *arguments, **environment)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def nothing_left(project: Path) -> None:
    wait_until(lambda: not alive(str(project)), "no process is left")


def column(output: str, row: str) -> list[int]:
    line = re.search(rf"{row}\W+(\d+)\D+(\d+)", output)
    assert line, output
    return [int(number) for number in line.groups()]


def test_the_demo_measures_and_leaves_nothing_running(project: Path) -> None:
    code, output = run(project, "--requests", "150")
    assert code == 0, output
    assert column(output, "requests answered") == [150, 150]
    assert column(output, "requests failed") == [0, 0]
    stock, pooled = column(output, "connections opened")
    assert stock >= 150
    assert 1 <= pooled <= 8
    stock, pooled = column(output, "most open at once")
    assert 1 <= stock <= 16
    assert 1 <= pooled <= 8
    assert f"= 8 connections; the server never held more than {pooled}." in output
    shown = output.partition("manage.py poolstatus --loans --server")[2]
    assert shown.count("gunicorn") >= 2
    nothing_left(project)


def serving(project: Path) -> bool:
    return any("gunicorn" in command for command in alive(str(project)))


def starting(project: Path) -> bool:
    return any("embedded.py" in command for command in alive(str(project)))


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, serving),
        (signal.SIGTERM, serving),
        (signal.SIGHUP, serving),
        (signal.SIGINT, starting),
        (signal.SIGTERM, starting),
    ],
)
def test_an_interrupted_demo_leaves_nothing_running(
    project: Path, number: int, moment: Callable[[Path], bool]
) -> None:
    process = start(project, "--requests", "100000", "--seconds", "60")
    wait_until(lambda: moment(project), "the demo has come so far")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if moment is serving:
        assert output.endswith("CommandError: Interrupted.\n")
        assert process.returncode == 128 + number
    nothing_left(project)


def test_a_killed_demo_leaves_nothing_running(project: Path) -> None:
    process = start(project, "--requests", "100000", "--seconds", "60")
    wait_until(lambda: serving(project), "the demo has come so far")
    process.kill()
    process.communicate(timeout=60)
    nothing_left(project)


def test_a_run_that_its_time_ends_has_no_bar_in_red() -> None:
    comparison = Comparison(Scale(10, 1, 1, 1, 1, 0), max_size=4)
    comparison._console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with comparison._progress() as progress:
        progress.advance(progress.add_task("without pooling", total=10), 5)
    drawn = comparison._console.file.getvalue()  # type: ignore[attr-defined]
    assert "5/10" in drawn
    assert "38;2;249;38;114" not in drawn  # rich's own colour of what is not complete


def test_the_help_names_every_option(project: Path) -> None:
    code, output = run(project, "--help")
    assert code == 0
    for option in ("--requests", "--seconds", "--concurrency", "--workers", "--threads", "--port"):
        assert option in output
    nothing_left(project)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--workers", "0"], {}, "--workers has to be 1 or more."),
        ([], {"POOL": "off"}, "POOL is off"),
        ([], {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/shop"}, "database does not answer"),
        (
            [],
            {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/shop?pool_max_siez=1"},
            "pool_max_size",
        ),
    ],
)
def test_what_cannot_work_is_said(
    project: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    code, output = run(project, *arguments, **environment)
    assert code != 0
    assert message in output
    nothing_left(project)


def test_a_port_in_use_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run(project, "--port", str(port))
    assert code != 0
    assert f"Port {port} cannot be served on" in output
    nothing_left(project)


@pytest.mark.parametrize("missing", ["gunicorn", "rich", "environ"])
def test_what_is_missing_is_named(project: Path, missing: str) -> None:
    # What stands in for it cannot be imported, and is found first.
    (project / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module {missing}')")
    code, output = run(project)
    assert code != 0
    assert missing in output
    assert "pip install -e '.[demo]'" in output
    nothing_left(project)
