"""One run of a package's own tests with one engine, and how each test ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.cluster import Server
from tests.django_suite.running import INSIDE as RECORDER
from tests.django_suite.running import STOCK, Outcomes, outcomes_of

from .packages import Package

INSIDE = Path(__file__).parent / "inside"
ROOT = Path(__file__).parents[2]
LONGEST = 1200  # seconds a run may take


def run(
    package: Package, sdist: Path, mode: str, server: Server, folder: Path, only: tuple[str, ...]
) -> Outcomes:
    """Run its tests (`only` some, when they are named) with the stock engine or with ours.

    Leaves its output in `folder`. Raises NoOutcome when the tests did not get to their end.
    """
    name = f"{package.name}-{mode}"
    outcomes, log = folder / f"{name}.json", folder / f"{name}.log"
    return outcomes_of(
        _command(package, only or package.tests),
        sdist / package.folder,
        _environment(package, sdist, mode, server, outcomes),
        outcomes,
        log,
        f"  {mode}",
        LONGEST,
    )


def _command(package: Package, tests: tuple[str, ...]) -> list[str]:
    if package.runner == "pytest":
        plugins = ["-p", "connpool_stack_pytest", "-p", "no:cacheprovider", "-o", "addopts="]
        return ["-m", "pytest", "-q", *plugins, *tests]
    if package.runner == "runtests":
        settings = "--settings=connpool_stack_settings"
        return ["runtests.py", settings, "--parallel=1", "--noinput", *tests]
    return ["-m", "django", "test", "--noinput", *tests]


def _environment(
    package: Package, sdist: Path, mode: str, server: Server, outcomes: Path
) -> dict[str, str]:
    chosen = {
        "theirs": package.settings,
        "aliases": package.aliases,
        "entry": _entry(package, mode, server),
        "installed": mode != STOCK,
        "settings": {**package.both, **({} if mode == STOCK else package.ours)},
    }
    environment = {
        **os.environ,
        **package.environment,
        "CONNPOOL_STACK": json.dumps(chosen),
        "CONNPOOL_SUITE_OUTCOMES": str(outcomes),
        "DJANGO_SETTINGS_MODULE": "connpool_stack_settings",
        "PYTHONPATH": os.pathsep.join(map(str, (INSIDE, RECORDER, sdist / package.folder, sdist))),
    }
    # Theirs turn on the warnings they want.
    for name in ("DATABASE_URL", "PYTHONDEVMODE", "PYTHONWARNINGS"):
        environment.pop(name, None)
    if not package.settings:
        del environment["DJANGO_SETTINGS_MODULE"]
    return environment


def _entry(package: Package, mode: str, server: Server) -> dict[str, Any]:
    place = server.django()
    options = place.pop("OPTIONS")
    name = f"connpool_stack_{package.name.replace('-', '_')}_{mode}"
    if mode == STOCK:
        return {**place, "ENGINE": package.stock, "NAME": name, "OPTIONS": options}
    pool = {"release": mode}
    return {**place, "ENGINE": package.engine, "NAME": name, "OPTIONS": {**options, "pool": pool}}
