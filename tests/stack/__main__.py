"""Run other packages' own tests with the stock engine and with ours; see how they differ.

The exit status is 0 when no test can tell the engines apart, but for those in explained.txt.
"""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import django
import psycopg

from tests.cluster import Server
from tests.django_suite import comparing, explained, server, source
from tests.django_suite.comparing import Comparison
from tests.django_suite.running import STOCK, NoOutcome, Outcomes

from .packages import PACKAGES, Package
from .running import run

MODES = ("auto", "transaction")
MOST_AGAIN = 20  # tests told apart that are run once more; if there are more, something is wrong
# Beside the interpreter: in the folder of the virtual environment, as tox makes one.
CACHE = Path(sys.prefix) / "stack"
EXPLAINED = Path(__file__).parent / "explained.txt"


def main() -> int:
    arguments = _parse()
    CACHE.mkdir(exist_ok=True)
    modes = (arguments.mode,) if arguments.mode else MODES
    passed = failed = 0
    print(f"Django {django.get_version()}, psycopg {psycopg.__version__}, ", end="")
    print(f"Python {platform.python_version()}")
    with server.running() as (started, description):
        print(f"on {description}", flush=True)
        for package in chosen(arguments.names):
            try:
                found = compare(package, modes, started, tuple(arguments.only))
            except NoOutcome as error:
                print(error)
                failed += 1
            else:
                passed += sum(comparison.passed for comparison in found)
                failed += sum(comparison.failed for comparison in found)
    print(f"\n{passed} passed, {failed} failed")
    return 1 if failed else 0


def chosen(names: list[str]) -> list[Package]:
    """Those of these names and groups; raises SystemExit for a name that nobody has."""
    known = {name for package in PACKAGES for name in (package.name, package.group)}
    if unknown := set(names) - known:
        raise SystemExit(f"no package and no group: {', '.join(sorted(unknown))}")
    return [one for one in PACKAGES if not names or {one.name, one.group} & set(names)]


def compare(
    package: Package, modes: tuple[str, ...], started: Server, only: tuple[str, ...]
) -> list[Comparison]:
    """Run one package's tests with each engine; none where it cannot be run here."""
    try:
        installed = version(package.name)
    except PackageNotFoundError:
        print(f"\n{package.name} is left out: it is not installed")
        return []
    if missing := _missing(package, started):
        print(f"\n{package.name} is left out: the server has no extension {', '.join(missing)}")
        return []
    sdist = source.sources(package.name, installed, CACHE)
    print(f"\n{package.name} {installed}", flush=True)
    runs = {mode: run(package, sdist, mode, started, CACHE, only) for mode in (STOCK, *modes)}
    return [_compare(package, sdist, mode, started, runs[STOCK], runs[mode]) for mode in modes]


def _compare(
    package: Package, sdist: Path, mode: str, started: Server, stock: Outcomes, ours: Outcomes
) -> Comparison:
    entries = {
        entry.test: entry
        for entry in explained.read(EXPLAINED.read_text())
        if entry.covers(package.name, mode)
    }
    found = comparing.compare(stock, ours, entries)
    if 0 < len(found.told_apart) <= MOST_AGAIN:
        # A test of theirs may end otherwise with the same engine: go by how it ends alone.
        tests = tuple(found.told_apart)
        print(f"  once more: {', '.join(tests)}", flush=True)
        folder = CACHE / "again"
        folder.mkdir(exist_ok=True)
        stock, ours = (
            {**before, **run(package, sdist, engine, started, folder, tests)}
            for engine, before in ((STOCK, stock), (mode, ours))
        )
        found = comparing.compare(stock, ours, entries)
    comparing.report(f"{package.name}, {mode}", found, stock, ours)
    return found


def _missing(package: Package, started: Server) -> list[str]:
    rows = started.execute("SELECT name FROM pg_available_extensions")
    return sorted(set(package.extensions) - {str(name) for (name,) in rows})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stack", description=__doc__)
    parser.add_argument("names", nargs="*", help="packages or groups of them; all, if none")
    parser.add_argument("--mode", choices=MODES, help="the pool's `release`")
    parser.add_argument("--only", nargs="*", default=[], help="tests, as their runner takes them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
