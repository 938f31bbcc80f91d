"""Run Django's own test suite with the stock engine and with ours; see how they differ.

Without labels it runs the part that touches connections; how the stock engine does there is kept in
`stock`, so that only ours is run. The exit status is 0 when no test
can tell the engines apart, but for those in explained.txt.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import django
import psycopg

from . import comparing, explained, kept, labels, server, source
from .comparing import Comparison
from .running import STOCK, Choice, NoOutcome, Outcomes, run

MODES = {
    "auto": ("auto",),
    "request": ("request",),
    "transaction": ("transaction",),  # as "auto" where somebody takes every offer at once
    "both": ("auto", "transaction"),
}
MOST_AGAIN = 20  # tests told apart that are run once more; if there are more, something is wrong
# Beside the interpreter: in the folder of the virtual environment, as tox makes one.
CACHE = Path(sys.prefix) / "django-suite"


def main() -> int:
    arguments = _parse()
    CACHE.mkdir(exist_ok=True)
    suite = source.suite(CACHE)
    processes = 1 if arguments.serial else len(os.sched_getaffinity(0))
    print(f"Django {django.get_version()}, psycopg {psycopg.__version__}, ", end="")
    print(f"Python {platform.python_version()}, {processes} process(es)")
    with server.running() as (started, description):
        print(f"on {description}", flush=True)
        chosen = _labels(arguments, suite, started)
        print(f"tests: {', '.join(chosen) or 'all'}", flush=True)
        choice = Choice(suite, chosen, processes)
        try:
            found = _compare_all(choice, arguments, started)
        except NoOutcome as error:
            print(f"{error}\n\nWith --serial it may get further.\n\n0 passed, 1 failed")
            return 1
    failed = sum(comparison.failed for comparison in found)
    print(f"\n{sum(comparison.passed for comparison in found)} passed, {failed} failed")
    return 1 if failed else 0


def _labels(arguments: argparse.Namespace, suite: Path, started: server.Server) -> tuple[str, ...]:
    """The tests to run; none for all."""
    if arguments.all or arguments.labels:
        return () if arguments.all else tuple(arguments.labels)
    chosen = labels.existing(suite)
    if server.has_extensions(started):
        return chosen
    print(f"{labels.NEEDS_EXTENSIONS} is left out: this server has no extensions")
    return tuple(label for label in chosen if label != labels.NEEDS_EXTENSIONS)


def _compare_all(
    choice: Choice, arguments: argparse.Namespace, started: server.Server
) -> list[Comparison]:
    """Run each mode, and the stock engine where it is not known how it ends."""
    modes = MODES[arguments.mode]
    ours = {mode: run(choice, mode, started, CACHE) for mode in modes}
    # Of a chosen part nothing is kept.
    path = None if arguments.all or arguments.labels else kept.place(*server.identity(started))
    stock = kept.stock_of(path, ours[modes[0]]) if path and not arguments.fresh else None
    if stock is None:
        stock = run(choice, STOCK, started, CACHE)
    else:
        print(f"{STOCK}: as kept in {path.name}; --fresh runs it anew", flush=True)
    if path and arguments.keep:
        kept.keep(path, stock)
    return [_compare(choice, mode, started, stock, ours[mode]) for mode in modes]


def _compare(
    choice: Choice, mode: str, started: server.Server, stock: Outcomes, ours: Outcomes
) -> Comparison:
    entries = explained.entries(".".join(map(str, django.VERSION[:2])), mode)
    found = comparing.compare(stock, ours, entries)
    if 0 < len(found.told_apart) <= MOST_AGAIN:
        stock, ours = _again(choice, mode, started, found.told_apart, (stock, ours))
        found = comparing.compare(stock, ours, entries)
    comparing.report(mode, found, stock, ours)
    return found


def _again(
    choice: Choice,
    mode: str,
    started: server.Server,
    tests: list[str],
    before: tuple[Outcomes, Outcomes],
) -> tuple[Outcomes, Outcomes]:
    """Run a few tests once more, alone and in one process, and go by how they end then.

    In parallel and under load a test of Django's may end otherwise with the same engine.
    """
    print(f"once more, one after the other: {', '.join(tests)}", flush=True)
    alone = Choice(choice.suite, tuple(tests), 1)
    folder = CACHE / "again"
    folder.mkdir(exist_ok=True)
    stock, ours = (run(alone, engine, started, folder) for engine in (STOCK, mode))
    return {**before[0], **stock}, {**before[1], **ours}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="django_suite", description=__doc__)
    parser.add_argument("labels", nargs="*", help="tests, as runtests.py takes them")
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--serial", action="store_true", help="in one process")
    parser.add_argument("--fresh", action="store_true", help="run the stock engine anew")
    parser.add_argument("--keep", action="store_true", help="keep how the stock engine's tests end")
    parser.add_argument("--mode", choices=MODES, default="both", help="the pool's `release`")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
