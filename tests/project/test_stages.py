"""What .ci/run leaves out when the time is over, and that it says so. With a stand-in for tox."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STAGES = Path(__file__).parents[2] / ".ci/stages.py"

# It is called with the arguments of tox, and says what the test wants it to.
STAND_IN = """#!/bin/sh
case "$*" in
{cases}
esac
"""

Staged = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.skipif(not STAGES.exists(), reason="the sdist comes without .ci")


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    """A function that runs the stages with a tox that does so for these arguments."""

    def run(minutes: float = 30.0, **cases: str) -> tuple[int, str]:
        tox = tmp_path / "tox"
        # The default run has no arguments; a name stands for whatever contains it.
        lines = [
            f"{repr('') if name == 'default' else f'*{name}*'}) {does} ;;"
            for name, does in cases.items()
        ]
        tox.write_text(STAND_IN.format(cases="\n".join(lines)))
        tox.chmod(0o755)
        done = subprocess.run(
            [sys.executable, str(STAGES), str(tox), "--minutes", str(minutes)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_all_is_run_while_there_is_time(staged: Staged) -> None:
    code, printed = staged()

    assert code == 0, printed
    assert "=== tox run -e newest-deep ===" in printed
    assert "=== tox run -e django-suite-51 -- --mode both ===" in printed
    assert printed.endswith("Nothing was left out.\n")


def test_the_default_run_is_never_cut_short_and_the_last_lines_say_what_was_left_out(
    staged: Staged,
) -> None:
    code, printed = staged(minutes=0.0)

    assert code == 0
    closing = printed[printed.index("LEFT OUT, SO NOTHING IS KNOWN OF IT:") :]
    assert "    TOX RUN -E NEWEST-DEEP (NO TIME)\n" in closing
    assert "TOX (NO TIME)" not in closing
    assert "=== tox run" not in printed


def test_what_is_stopped_for_time_is_left_out_and_has_not_failed(staged: Staged) -> None:
    # The stand-in takes no time for the default run, so that all seems to fit.
    code, printed = staged(minutes=0.03, newest="exec sleep 600")

    assert code == 0
    assert "TOX RUN -E NEWEST-DEEP (STOPPED WHEN THE TIME WAS OVER)\n" in printed


@pytest.mark.parametrize("where", ["default", "oldest"])
def test_what_fails_makes_it_red_and_is_told_at_the_end(where: str, staged: Staged) -> None:
    code, printed = staged(**{where: "echo 'FAILED tests/test_x.py::test_y'; exit 1"})

    assert code == 1
    closing = printed[printed.index(" In all ") :]
    assert "FAILED tests/test_x.py::test_y" in closing
    assert "FAILED (exit status 1)" in closing


def test_what_fails_without_a_tests_name_is_told_by_its_last_lines(staged: Staged) -> None:
    """As Django's suite does, and the docs. Who has only the end of the output knows why."""
    said = "for i in $(seq 90); do echo line $i; done; echo 'TOLD APART: a test'"
    code, printed = staged(**{"django-suite-61": f"{said}; exit 1", "page": "echo all is well"})

    assert code == 1
    closing = printed[printed.index(" In all ") :]
    assert "\n    line 90\n    TOLD APART: a test\n" in closing
    assert "line 20\n" not in closing and "all is well" not in closing


def test_an_environment_without_its_python_is_left_out(staged: Staged) -> None:
    code, printed = staged(default="echo '  oldest: SKIP (0.1 seconds)'")

    assert code == 0
    assert printed.endswith("    OLDEST (NO SUCH PYTHON HERE)\n")


def test_what_was_flaky_is_told_at_the_end(staged: Staged) -> None:
    line = '{"where": "newest", "test": "test_it", "failure": "once"}'
    code, printed = staged(default=f"echo '{line}' >> $TEST_FLAKY_LOG")

    assert code == 0
    assert "    FLAKY newest: test_it\n        once\n" in printed
