"""Run pytest, then run once more, alone, what failed.

    python -m tests.again [pytest's arguments]

A test that passes then is flaky: it is printed in a closing block FLAKY with its first failure (and
as a line of JSON in the file that TEST_FLAKY_LOG names), and the exit status is that of a run in
which it passed. A test that fails again has failed. Where more than `MOST` tests fail, something is
broken, and nothing is run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

MOST = 10  # tests that are run again
FAILED = 1  # pytest's exit status when tests failed, and nothing else went wrong

# What concerns a whole run, and has no meaning for a few tests in one process.
OF_A_WHOLE_RUN = ("-n", "--cov", "--dist", "--durations", "--maxfail", "--junitxml")


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="again-") as folder:
        return _run(arguments, Path(folder))


def _run(arguments: list[str], folder: Path) -> int:
    cache, report = folder / "cache", folder / "report.xml"
    keep = ["-o", f"cache_dir={cache}"]
    code = _pytest([*arguments, *keep, f"--junitxml={report}"])
    failed = _failed(cache)
    if code != FAILED or not 0 < len(failed) <= MOST:
        return code
    print(f"\nOnce more, alone: {', '.join(failed)}", flush=True)
    alone = ["--last-failed", "--last-failed-no-failures=none", "-p", "no:randomly"]
    code = _pytest([*_without_what_concerns_a_whole_run(arguments), *keep, *alone])
    flaky = sorted(set(failed) - set(_failed(cache)))
    if flaky:
        _tell(flaky, _texts(report))
    return code


def _pytest(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _failed(cache: Path) -> list[str]:
    """The tests that failed in the last run, by pytest's own memory of it."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def _without_what_concerns_a_whole_run(arguments: list[str]) -> list[str]:
    """Leave out those options; `-n 2` and `-n2` are the same to pytest."""
    kept = []
    follows = False
    for argument in arguments:
        if follows:
            follows = False
        elif argument in ("-n", "--dist", "--durations", "--maxfail", "--junitxml"):
            follows = True
        elif not argument.startswith(OF_A_WHOLE_RUN):
            kept.append(argument)
    return kept


def _texts(report: Path) -> dict[str, str]:
    """How each test that failed did so: JUnit's class name and name to the traceback."""
    found = {}
    for case in xml.parse(report).iter("testcase"):
        for trouble in (*case.iter("failure"), *case.iter("error")):
            key = f"{case.get('classname')}.{case.get('name')}"
            found[key] = trouble.text or trouble.get("message") or ""
    return found


def _as_in_the_report(test: str) -> str:
    name, bracket, parameters = test.partition("[")
    dotted = name.replace(".py::", ".").replace("/", ".").replace("::", ".")
    return dotted + bracket + parameters


def _tell(flaky: list[str], texts: dict[str, str]) -> None:
    where = os.environ.get("TOX_ENV_NAME", "pytest")
    log = os.environ.get("TEST_FLAKY_LOG")
    print(f"\n{f' FLAKY in {where}: failed, and passed alone ':=^99}")
    for test in flaky:
        text = texts.get(_as_in_the_report(test), "(its first failure was not reported)")
        print(f"FLAKY {test}\n\n{text}\n", flush=True)
        if log:
            with Path(log).open("a") as file:
                print(json.dumps({"where": where, "test": test, "failure": text}), file=file)
    print("=" * 99, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
