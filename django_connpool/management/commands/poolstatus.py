"""`manage.py poolstatus`: the pools of the running processes, shown once or again and again."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_connpool import registry
from django_connpool.status import activity, origin, table
from django_connpool.status.collect import collect
from django_connpool.status.report import Report
from django_connpool.status.text import plural

WATCH_SECONDS = 2.0
PIPED_WIDTH = 100

NO_ANSWER = 2  # exit status: a process gave no usable answer

_CLEAR_SCREEN = "\x1b[H\x1b[2J"
# For a screen that is drawn again: nothing flickers, and nothing moves up into the history.
_TOP = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


class Command(BaseCommand):
    """Needs no database, no system check and no pool: it is for when things are wrong."""

    help = (
        "Show the connection pools of the running processes of this project and user, and how"
        " many connections the servers have. Exits with status 2 when a process gave no usable"
        " answer."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--format",
            choices=("table", "json", "prometheus"),
            default="table",
            help="What to print (default: table).",
        )
        parser.add_argument(
            "--database",
            metavar="ALIAS",
            help="Show only the pools and the server of this database alias.",
        )
        parser.add_argument(
            "--all-projects",
            action="store_true",
            help="Show the processes of this user's other projects too.",
        )
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=_seconds,
            const=WATCH_SECONDS,
            help=f"Print again every so many seconds ({WATCH_SECONDS:g} if not given)"
            " until Ctrl-C.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise CommandError("This platform has no Unix sockets, so there is no pool status.")
        wrappers = _pooled(options["database"])
        show = {
            "table": self._show_table,
            "json": self._show_json,
            "prometheus": self._show_prometheus,
        }[options["format"]]
        watch = options["watch"]
        self._is_drawn = False
        try:
            silent = self._show(show, wrappers, options)
            while watch:
                time.sleep(watch)
                self._show(show, wrappers, options)
        except KeyboardInterrupt:
            if not watch:
                raise
            return
        except BrokenPipeError:
            # Whoever read has seen enough, as `head` does.
            self._stop_writing()
            return
        if silent:
            raise CommandError(
                f"{plural(silent, 'process', 'processes')} gave no usable answer.",
                returncode=NO_ANSWER,
            )

    def _show(
        self,
        show: Callable[[Report, bool], None],
        wrappers: dict[str, BaseDatabaseWrapper],
        options: dict[str, Any],
    ) -> int:
        """Print one report; how many processes gave no usable answer."""
        server = {alias: activity.ask(wrapper) for alias, wrapper in wrappers.items()}
        report = Report(collect(all_projects=options["all_projects"]), server)
        if options["database"]:
            report = report.only(options["database"])
        show(report, bool(options["watch"]))
        self.stdout.flush()  # whoever reads a pipe wants it now, not when the buffer is full
        return len(report.collected.silent)

    def _stop_writing(self) -> None:
        """Have the interpreter's end, which writes what is left in the buffer, not fail again."""
        with suppress(OSError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())

    def _show_table(self, report: Report, watching: bool) -> None:
        found = report.collected
        if found.refused and not report.processes and not watching:
            raise CommandError("; ".join(found.refused))
        lines = [f"not looked into: {refusal}" for refusal in found.refused]
        if not report.processes and not found.silent:
            lines.append(_nobody(report))
        is_terminal = self.stdout.isatty() and os.environ.get("TERM") != "dumb"
        size = shutil.get_terminal_size((PIPED_WIDTH, 24))
        lines.append(table.render(report, size.columns if is_terminal else PIPED_WIDTH))
        if watching:
            lines.insert(0, time.strftime("%H:%M:%S"))
            lines.append("")
        shown = "\n".join(lines)
        if watching and is_terminal:
            self._draw([line[: size.columns] for line in shown.splitlines()], size.lines)
        else:
            self.stdout.write(shown)

    def _draw(self, lines: list[str], height: int) -> None:
        """Show lines from the top of the terminal, over those drawn before, without scrolling."""
        if len(lines) >= height:
            hidden = len(lines) - height + 2
            lines = [*lines[: max(height - 2, 0)], f"({hidden} more lines: make the window higher)"]
        start = _TOP if self._is_drawn else _CLEAR_SCREEN
        self._is_drawn = True
        text = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
        self.stdout.write(start + text + _CLEAR_BELOW, ending="")

    def _show_json(self, report: Report, watching: bool) -> None:
        # One document a line is what reads a stream of them.
        self.stdout.write(report.as_json(indent=None if watching else 2))

    def _show_prometheus(self, report: Report, watching: bool) -> None:
        try:
            from django_connpool.contrib import prometheus
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        self.stdout.write(prometheus.render(report))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _pooled(wanted: str | None) -> dict[str, BaseDatabaseWrapper]:
    """The wrappers of the databases with our ENGINE, or of the one that is wanted."""
    found = {alias: wrapper for alias in connections if (wrapper := _wrapper(alias))}
    if wanted is None:
        return found
    if wanted not in found:
        known = ", ".join(repr(alias) for alias in found) or "none"
        what = "is not pooled by django_connpool" if wanted in connections else "does not exist"
        raise CommandError(f"The database alias {wanted!r} {what}. Pooled aliases: {known}.")
    return {wanted: found[wanted]}


def _wrapper(alias: str) -> BaseDatabaseWrapper | None:
    try:
        wrapper = connections[alias]
    except ImproperlyConfigured:
        # An engine whose driver is missing here is not ours, and not our business.
        return None
    return wrapper if registry.is_pooled(wrapper) else None


def _nobody(report: Report) -> str:
    found = report.collected
    places = " and ".join(str(path) for path in found.directories)
    others = ""
    if found.elsewhere:
        others = (
            f"There {'is' if found.elsewhere == 1 else 'are'}"
            f" {plural(found.elsewhere, 'process', 'processes')} of other projects:"
            f" --all-projects shows them. This one is {origin.project()!r};\n"
            "CONNPOOL_PROJECT in the settings names it otherwise.\n"
        )
    return (
        "No running process of this project has a connection pool.\n"
        f"Looked in {places} as uid {os.getuid()};"
        " processes of other users are not seen there.\n"
        f"{others}"
        "A process shows up with its first query. One with another temporary directory shows up\n"
        "when CONNPOOL_STATUS_DIR names the same directory for both.\n"
    )
