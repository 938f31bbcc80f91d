"""One run of Django's runtests.py with one engine, and how each test ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django

from tests.cluster import Server

INSIDE = Path(__file__).parent / "inside"
STOCK = "stock"
ENGINES = {
    STOCK: "django.db.backends.postgresql",
    "auto": "django_connpool.backends.postgresql",
    "request": "django_connpool.backends.postgresql",
    "transaction": "django_connpool.backends.postgresql",
}
LONGEST = 2 * 3600  # seconds a run may take

# Test id to {"outcome": one word or more, "why": text of what went wrong}.
Outcomes = dict[str, dict[str, str]]


class NoOutcome(Exception):
    """The suite ended before it could say how its tests ended.

    In parallel that may be for an error of one test, which cannot be sent between processes.
    """


@dataclass(frozen=True)
class Choice:
    """What to run: some tests (all when there are no labels), in so many processes."""

    suite: Path
    labels: tuple[str, ...]
    processes: int


def run(choice: Choice, mode: str, server: Server, folder: Path) -> Outcomes:
    """Run the tests with the stock engine, or with ours in that `release` mode.

    Leaves its output in `folder`. Raises NoOutcome when the suite did not get to its end.
    """
    outcomes, log = folder / f"{mode}.json", folder / f"{mode}.log"
    return outcomes_of(
        ["runtests.py", *_arguments(choice)],
        choice.suite,
        _environment(mode, server, outcomes),
        outcomes,
        log,
        mode,
        LONGEST,
    )


def outcomes_of(
    arguments: list[str],
    suite: Path,
    environment: dict[str, str],
    outcomes: Path,
    log: Path,
    name: str,
    seconds: float,
) -> Outcomes:
    """Run Python with these arguments in a suite's folder, and return what it has written.

    Raises NoOutcome when it has written nothing, subprocess.TimeoutExpired when it takes longer
    than so many seconds. `name`: of the run, for people.
    """
    outcomes.unlink(missing_ok=True)
    began = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(
            [sys.executable, *arguments],
            cwd=suite,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        ).returncode
    if not outcomes.exists():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise NoOutcome(f"{name} ended with {code} and no outcome ({log}):\n{tail}")
    found: Outcomes = json.loads(outcomes.read_text())
    counts = Counter(entry["outcome"] for entry in found.values())
    told = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
    print(f"{name}: {told}, in {time.monotonic() - began:.0f} s ({log})", flush=True)
    return found


def _arguments(choice: Choice) -> list[str]:
    settings = "--settings=connpool_suite_settings"
    return [settings, f"--parallel={choice.processes}", "--noinput", "-v", "1", *choice.labels]


def _environment(mode: str, server: Server, outcomes: Path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    environment.update(
        CONNPOOL_SUITE_DATABASES=json.dumps(_databases(mode, server)),
        CONNPOOL_SUITE_OUTCOMES=str(outcomes),
        PYTHONPATH=str(INSIDE),
    )
    # Django's suite turns on the warnings it wants, and is slow in this mode.
    environment.pop("PYTHONDEVMODE", None)
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return environment


def _databases(mode: str, server: Server) -> dict[str, Any]:
    place = server.django()
    options = place.pop("OPTIONS")
    if mode != STOCK:
        options = {**options, "pool": {"release": mode}}
    entry = {**place, "ENGINE": ENGINES[mode], "OPTIONS": options}
    # Two versions may be at work on one server at the same time.
    name = f"connpool_suite_{''.join(map(str, django.VERSION[:2]))}_{mode}"
    return {
        "default": {**entry, "NAME": name},
        "other": {**entry, "NAME": f"{name}_other"},
    }
