"""Break the package in one place at a time, and see which tests notice.

    python -m tests.mutants              every mutant against what `tox` runs
    python -m tests.mutants 3 17         those two
    python -m tests.mutants --deep       what the quick tests let live, against all tests

Prints a line for each mutant: the test that caught it, or ALIVE. Exits with 1 when one is alive.
Each works on a copy of the sources; 51 of them take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .places import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("django_connpool", "tests", "testproject", "bench", "docs", "pyproject.toml", "tox.ini")
QUICK = "not e2e and not stress"
POOL, REAL = ["tests/pool", "--ignore=tests/pool/real"], ["tests/pool/real"]
BACKENDS, SESSIONS = ["tests/backends"], ["tests/sessions"]
# Where a mutant is looked for first, by the room that it is in.
FIRST = {
    "pool": (POOL, REAL, BACKENDS, SESSIONS),
    "process": (POOL, REAL, BACKENDS, SESSIONS),
    "session": (SESSIONS, POOL, REAL, BACKENDS),
}
ELSE = (BACKENDS, SESSIONS, POOL, REAL)
# Not tests/project: its test of this list sees each mutant, and proves nothing.
REST = [
    "tests",
    *(f"--ignore=tests/{name}" for name in ("pool", "backends", "sessions", "project")),
]
HANGS = "the tests do not run to their end"
LONGEST = 1200  # seconds for one mutant, which may make every test hang


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="which ones; all by default")
    parser.add_argument("--deep", action="store_true", help="also with e2e and stress tests")
    options = parser.parse_args()
    chosen = options.numbers or range(1, len(MUTANTS) + 1)
    alive = 0
    for number in chosen:
        mutant = MUTANTS[number - 1]
        caught = _hunt(mutant, QUICK)
        if not caught and options.deep:
            caught = _hunt(mutant, "e2e or stress")
            caught = caught and f"only deep: {caught}"
        alive += not caught
        print(f"{number:3} {mutant.file:20} {mutant.breaks}: {caught or 'ALIVE'}", flush=True)
    return bool(alive)


def _hunt(mutant: Mutant, marks: str) -> str:
    """The first test that fails with this mutant, also alone; empty when all pass."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, copy / part)
        broken = copy / "django_connpool" / mutant.file
        broken.write_text(apply(mutant, broken.read_text()))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", marks, "-n", "auto"]
        command += ["--timeout=120", "-p", "no:cacheprovider", "-p", "no:randomly"]
        rooms = FIRST.get(mutant.file.partition("/")[0], ELSE)
        for places in (*rooms, REST):
            passed_alone: list[str] = []
            while found := _failure(_run([*command, *places, *passed_alone], copy)):
                if found == HANGS or _failure(_run([*command, "-n", "0", found], copy)):
                    return found
                passed_alone += ["--deselect", found]  # it was not the mutant that failed it
    return ""


def _failure(out: str) -> str:
    """The first test that failed in a run; empty when none did."""
    if found := re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - |$)", out, re.MULTILINE):
        return found[1]
    return "" if re.search(r"\d passed|deselected|no tests ran", out) else HANGS


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def apply(mutant: Mutant, source: str) -> str:
    """The source with the mutant in it. Raises ValueError when its place is gone."""
    if source.count(mutant.before) != 1:
        raise ValueError(f"{mutant.file}: {source.count(mutant.before)} x {mutant.before!r}")
    return source.replace(mutant.before, mutant.after)


if __name__ == "__main__":
    sys.exit(main())
