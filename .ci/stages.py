"""Run `tox`, then stage by stage what takes longer, until the time is over; say what was left out.

    python .ci/stages.py TOX [--minutes 30] [--spent SECONDS]

The default run is never cut short. Each stage after it begins only if the time that is left is
enough for it on a machine as fast as the default run has shown this one to be. What did not begin,
or was stopped for time, is named in the last lines, in capitals. The exit status is 1 when anything
failed, and 0 when nothing that ran did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Seconds that the default run takes on the machine on which the stages were timed.
DEFAULT = 540
MOST_LINES = 200  # of failures, told once more at the end
LAST_LINES = 40  # of a stage that failed without a test's name: told once more, too


@dataclass
class Stage:
    """One call of tox, and how many seconds it took where `DEFAULT` was taken."""

    arguments: list[str]
    seconds: int
    outcome: str = "LEFT OUT: NO TIME"
    failures: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    skipped: list[str] = field(default_factory=list)  # environments whose Python is not here

    def __str__(self) -> str:
        return " ".join(["tox", *self.arguments])


def stages() -> list[Stage]:
    """What follows the default run, the most telling first."""
    suite = [
        Stage(["run", "-e", f"django-suite-{version}", "--", "--mode", mode], seconds)
        for version, mode, seconds in (
            ("61", "transaction", 240),
            ("42", "auto", 240),
            ("61", "auto", 240),
            ("42", "transaction", 240),
            ("52", "both", 480),
            ("60", "both", 480),
            ("51", "both", 480),
        )
    ]
    deep = [
        Stage(["run", "-e", environment], seconds)
        for environment, seconds in (
            ("newest-deep", 600),
            ("newest-ways", 180),
            ("page", 90),
            ("package", 60),
            ("works-with", 40),
            ("docs", 40),
            ("oldest-deep", 600),
            ("py313-django61-psycopg32-pool", 80),
            ("py312-django61", 45),
            ("py312-django52", 45),
            ("py313-django51", 45),
            ("py311-django52", 45),
            ("py312-django51", 45),
            ("py310-django52", 45),
            ("py313-django60", 45),
            ("py311-django42-pool", 95),
            ("py312-django42", 45),
            ("py310-django51", 45),
        )
    ]
    return [deep[0], suite[0], *deep[1:5], suite[1], deep[5], *suite[2:4], *deep[6:], *suite[4:]]


class Run:
    """What is run with one tox until a moment, and what came of it."""

    def __init__(self, tox: str, ends: float, flaky: Path) -> None:
        self._tox = tox
        self._ends = ends
        self._environment = {**os.environ, "TEST_FLAKY_LOG": str(flaky)}

    @property
    def left(self) -> float:
        return self._ends - time.monotonic()

    def do(self, stage: Stage, *, to_the_end: bool) -> None:
        """Run a stage, its output on ours; stop it when the time is over, unless told not to."""
        print(f"\n{f' {stage} ':=^99}", flush=True)
        with (
            subprocess.Popen(
                [self._tox, *stage.arguments],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Of its own, so that all that it started can be stopped with it.
                start_new_session=True,
            ) as process,
            _Alarm(None if to_the_end else self.left, process) as alarm,
        ):
            for line in process.stdout or ():
                print(line, end="", flush=True)
                stage.last.append(line.rstrip())
                if re.match(r"(FAILED|ERROR) ", line):
                    stage.failures.append(line.rstrip())
                elif skipped := re.match(r"  (\S+): SKIP ", line):
                    stage.skipped.append(skipped[1])
            code = process.wait()
        if alarm.rang:
            stage.outcome = "LEFT OUT: STOPPED WHEN THE TIME WAS OVER"
        else:
            stage.outcome = "ok" if code == 0 else f"FAILED (exit status {code})"
            if stage.skipped and stage.arguments:
                stage.outcome = "LEFT OUT: NO SUCH PYTHON HERE"


class _Alarm:
    """Stops a process and what it started after so many seconds: SIGTERM, then SIGKILL."""

    def __init__(self, seconds: float | None, process: subprocess.Popen[str]) -> None:
        self._seconds = seconds
        self._process = process
        self.rang = False

    def __enter__(self) -> _Alarm:
        if self._seconds is not None:
            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, max(1.0, self._seconds), 15.0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: object) -> None:
        if self._process.poll() is None:
            how = signal.SIGKILL if self.rang else signal.SIGTERM
            self.rang = True
            os.killpg(self._process.pid, how)


def main() -> int:
    arguments = _parse()
    began = time.monotonic() - arguments.spent
    with tempfile.TemporaryDirectory() as folder:
        flaky = Path(folder) / "flaky"
        run = Run(arguments.tox, began + arguments.minutes * 60, flaky)
        default = Stage([], DEFAULT)
        at = time.monotonic()
        run.do(default, to_the_end=True)
        pace = (time.monotonic() - at) / DEFAULT
        rest = stages()
        for stage in rest:
            if stage.seconds * pace < run.left:
                run.do(stage, to_the_end=False)
        done = [default, *rest]
        print(f"\n{' In all ':=^99}\n")
        print(
            f"This machine takes {pace:.1f} times as long as that on which the stages were timed."
        )
        _tell_failures(done)
        _tell_flaky(flaky)
        _tell_outcomes(done)
    print(f"\nIt took {(time.monotonic() - began) / 60:.0f} minutes.")
    _tell_what_was_left_out(done)
    return 1 if any(stage.outcome.startswith("FAILED") for stage in done) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stages", description=__doc__)
    parser.add_argument("tox", help="the program to call")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all (default: 30)")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds of it that are over")
    return parser.parse_args()


def _tell_failures(done: list[Stage]) -> None:
    lines = [f"{stage}: {line}" for stage in done for line in stage.failures]
    if lines:
        print("\nWhat failed, at first or again:", *lines[:MOST_LINES], sep="\n    ")
    for stage in done:
        if stage.outcome.startswith("FAILED") and not stage.failures:
            print(f"\n{stage} failed. The last that it said:", *stage.last, sep="\n    ")


def _tell_flaky(log: Path) -> None:
    if log.exists():
        print("\nFLAKY: failed, and passed alone. Each is a defect:")
        for entry in map(json.loads, log.read_text().splitlines()):
            text = entry["failure"].rstrip().replace("\n", "\n        ")
            print(f"    FLAKY {entry['where']}: {entry['test']}\n        {text}")
    else:
        print("\nFLAKY: none")


def _tell_outcomes(done: list[Stage]) -> None:
    print()
    for stage in done:
        print(f"    {stage!s:<60} {stage.outcome}")


def _tell_what_was_left_out(done: list[Stage]) -> None:
    left_out = list(_left_out(done))
    if left_out:
        print("\nLEFT OUT, SO NOTHING IS KNOWN OF IT:", *left_out, sep="\n    ")
    else:
        print("\nNothing was left out.")


def _left_out(done: list[Stage]) -> Iterator[str]:
    for stage in done:
        if stage.outcome.startswith("LEFT OUT"):
            yield f"{str(stage).upper()} ({stage.outcome.partition(': ')[2]})"
        elif stage.skipped:
            yield f"{', '.join(stage.skipped).upper()} (NO SUCH PYTHON HERE)"


if __name__ == "__main__":
    sys.exit(main())
