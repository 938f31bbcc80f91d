"""`manage.py poolstatus`: whether the pools of the running processes are well; acting on them."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_connpool import registry
from django_connpool.status import activity, advice, bundle, hands, origin, overview, sides, table
from django_connpool.status.collect import collect
from django_connpool.status.document import Process
from django_connpool.status.history import History
from django_connpool.status.readiness import BUSY, DOWN, STUCK, Limits
from django_connpool.status.report import Report
from django_connpool.status.screen import Screen
from django_connpool.status.text import plural, wrapped
from django_connpool.status.verdict import is_as_bad_as

WATCH_SECONDS = 2.0

NO_ANSWER = 2  # exit status: a process gave no usable answer
BAD = {BUSY: 3, STUCK: 4, DOWN: 5}  # exit statuses of --fail-on

HAND_SECONDS = 10.0  # for a process to do what it is told
_WITH_NUMBER = {"resize": "the size", "cancel": "the backend's pid of a loan"}


class Command(BaseCommand):
    """Needs no database, no system check and no pool: it is for when things are wrong."""

    help = (
        "Say whether the connection pools of the running processes of this project and user are"
        " well, busy (somebody waits for long), stuck (all connections are held for long) or down"
        " (connecting fails), and act on them. Exits with status 2 when a process gave no usable"
        " answer, with 3, 4 or 5 by --fail-on, with 1 when something was not done."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "do",
            nargs="?",
            choices=hands.VERBS,
            help="Act: drain replaces every connection; resize N sets max_size until the process"
            " ends; suspend lends nothing more until resume; cancel PID ends the statement of the"
            " loan with that backend; close-idle closes idle connections down to min_size.",
        )
        parser.add_argument(
            "number", nargs="?", type=int, metavar="N", help="The N or PID of resize and cancel."
        )
        parser.add_argument(
            "--process", metavar="PID", type=int, help="Only this process (default: all)."
        )
        parser.add_argument(
            "--database", metavar="ALIAS", help="Only the pools and the server of this alias."
        )
        parser.add_argument("--loans", action="store_true", help="Show who has each connection.")
        parser.add_argument(
            "--server",
            action="store_true",
            help="Ask the servers: all their sessions, the pools' and foreign ones side by side.",
        )
        parser.add_argument(
            "--advise",
            action="store_true",
            help="Say whether max_size suits the server and what was wanted, and what to write.",
        )
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=_seconds,
            const=WATCH_SECONDS,
            help=f"Show it again every so many seconds ({WATCH_SECONDS:g} if not given); q ends.",
        )
        parser.add_argument(
            "--fail-on",
            choices=tuple(BAD),
            help="Exit with status 3 (busy), 4 (stuck) or 5 (down) if the worst pool is that, and"
            " it is as bad as this or worse.",
        )
        parser.add_argument(
            "--busy-after",
            metavar="SECONDS",
            type=_seconds,
            help="A pool is busy when somebody has waited longer (default: CONNPOOL_BUSY_AFTER in"
            " the settings, else 5).",
        )
        parser.add_argument(
            "--stuck-after",
            metavar="SECONDS",
            type=_seconds,
            help="It is stuck when all its connections have been on loan for longer (default:"
            " CONNPOOL_STUCK_AFTER in the settings, else 60).",
        )
        parser.add_argument(
            "--format",
            choices=("table", "json", "prometheus"),
            default="table",
            help="What to print (default: table).",
        )
        parser.add_argument(
            "--report",
            action="store_true",
            help="Print what to send with a question or a bug report: versions, options, checks and"
            " the state of the pools, without passwords, names, addresses and values.",
        )
        parser.add_argument(
            "--all-projects", action="store_true", help="This user's other projects too."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise CommandError("This platform has no Unix sockets, so there is no pool status.")
        self._options = options
        self._wrappers = _pooled(options["database"])
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            self.stderr.style_func = None
        if options["report"] and (options["do"] or options["watch"] or options["fail_on"]):
            raise CommandError("--report is printed once: it does nothing, and judges nothing.")
        if options["do"]:
            self._act()
            return
        if options["number"] is not None:
            raise CommandError("A number is for resize and cancel.")
        if options["watch"] and options["fail_on"]:
            raise CommandError("--watch does not end by itself, so --fail-on has no meaning there.")
        colours = True if options["force_color"] else False if options["no_color"] else None
        self._screen = Screen(self.stdout, colours)
        try:
            if options["watch"]:
                self._watch(options["watch"])
                return
            report = self._ask()
            if options["report"]:
                self._screen.write(bundle.text(report, self._wrappers))
                return
            self._screen.write(self._text(report))
        except BrokenPipeError:
            # Whoever read has seen enough, as `head` does.
            self._stop_writing()
            return
        self._judge(report)

    # -- Showing --------------------------------------------------------------------------

    def _watch(self, seconds: float) -> None:
        history = History()
        is_drawn = self._screen.is_terminal and self._options["format"] == "table"
        with suppress(KeyboardInterrupt), self._screen.taking_keys():
            going_on = True
            while going_on:
                text = self._text(self._ask(), history)
                self._screen.draw(text) if is_drawn else self._screen.write(text)
                going_on = self._screen.wait(seconds)

    def _ask(self) -> Report:
        options = self._options
        details = options["server"] or options["advise"]
        server = {}
        if details or options["format"] != "table" or options["report"]:
            server = {
                alias: activity.ask(wrapper, details) for alias, wrapper in self._wrappers.items()
            }
        report = Report(collect(all_projects=options["all_projects"]), server)
        if options["database"]:
            report = report.only(options["database"])
        if options["process"]:
            report = report.of_process(options["process"])
            if not (report.processes or report.collected.silent):
                pid = options["process"]
                raise CommandError(f"No process {pid} of this project has a connection pool.")
        return report

    def _text(self, report: Report, history: History | None = None) -> str:
        options = self._options
        if options["format"] == "prometheus":
            return _prometheus(report)
        judged = self._judged(report)
        if options["format"] == "json":
            word, reason = overview.sum_up(judged)
            more: dict[str, Any] = {"verdict": {"word": word, "reason": reason}}
            if options["advise"]:
                more["advice"] = advice.advise(report)
            # One document a line is what reads a stream of them.
            return report.as_json(None if history is not None else 2, **more)
        return "\n".join(self._lines(report, judged, history))

    def _lines(
        self, report: Report, judged: list[overview.Judged], history: History | None
    ) -> Iterator[str]:
        options, found = self._options, report.collected
        width = max(self._screen.size.columns, table.MIN_WIDTH)
        if found.refused and not report.processes and history is None:
            raise CommandError("; ".join(found.refused))
        if history is not None:
            ends = "  (q ends)" if self._screen.is_terminal else ""
            yield f"{time.strftime('%H:%M:%S')}{ends}"
        yield from (f"not looked into: {refusal}" for refusal in found.refused)
        if judged:
            yield overview.headline(judged, width, self._screen.paint)
        elif report.processes:
            yield "well: no pool is open"
        else:
            yield _nobody(report)
        if history is not None:
            yield ""
            yield from history.lines(report, width, self._screen.marks)
        parts = []
        if options["loans"]:
            parts.append(table.render(Report(found), width))
        elif not (options["server"] or options["advise"]):
            parts.append(overview.render(judged, width, self._screen.paint))
        if options["server"]:
            parts += [table.servers(report, width), sides.render(report, width)]
        if options["advise"]:
            advised = advice.advise(report).values()
            parts.append("\n\n".join("\n".join(wrapped(text, width, "")) for text in advised))
        for part in filter(None, parts):
            yield ""
            yield part

    def _judged(self, report: Report) -> list[overview.Judged]:
        limits = Limits.from_settings()
        busy_after = self._options["busy_after"] or limits.busy_after
        stuck_after = self._options["stuck_after"] or limits.stuck_after
        return overview.judge(report, busy_after, stuck_after)

    def _judge(self, report: Report) -> None:
        """End with another status than 0, if there is reason to."""
        options, silent = self._options, len(report.collected.silent)
        # One that did not answer in time has a status of its own: the machine may be slow.
        pools = [one for one in self._judged(report) if one.pool]
        word, reason = overview.sum_up(pools)
        if options["fail_on"] and is_as_bad_as(word, options["fail_on"]):
            raise CommandError(f"{word}: {reason}", returncode=BAD[word])
        if silent:
            raise CommandError(
                f"{plural(silent, 'process', 'processes')} gave no usable answer.",
                returncode=NO_ANSWER,
            )

    def _stop_writing(self) -> None:
        """Have the interpreter's end, which writes what is left in the buffer, not fail again."""
        with suppress(OSError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())

    # -- Acting ---------------------------------------------------------------------------

    def _act(self) -> None:
        """Have each process that is meant do what is asked."""
        do, number, alias = (self._options[name] for name in ("do", "number", "database"))
        if do in _WITH_NUMBER and number is None:
            raise CommandError(f"{do} needs {_WITH_NUMBER[do]}: poolstatus {do} N")
        if do not in _WITH_NUMBER and number is not None:
            raise CommandError(f"{do} takes no number.")
        command = {"do": do, **({"pool": alias} if alias else {})}
        if number is not None:
            command["size" if do == "resize" else "loan"] = number
        report = Report(collect())
        if not (report.processes or report.collected.silent):  # as for another user
            raise CommandError(_nobody(report).rstrip())
        if alias:
            report = report.only(alias)
        if self._options["process"]:
            report = report.of_process(self._options["process"])
        pids = self._meant(report, do, number)
        with ThreadPoolExecutor(min(len(pids), 16)) as executor:
            answers = executor.map(lambda pid: hands.send(pid, command, HAND_SECONDS), pids)
        failed = [str(silence) for silence in report.collected.silent if do != "cancel"]
        for pid, answer in zip(pids, answers, strict=True):
            if answer["ok"]:
                self.stdout.write(f"pid {pid}  {answer['text']}")
            else:
                said = answer["text"]
                failed.append(said if f"pid {pid} " in said else f"pid {pid}: {said}")
        if failed:
            raise CommandError("\n".join(f"not done: {text}" for text in failed))

    def _meant(self, report: Report, do: str, number: int | None) -> list[int]:
        """The processes that are to do it. Raises CommandError when there is none."""
        aliases = {tuple(pool["aliases"]) for pool in _pools(report.processes)}
        if do == "resize" and len(aliases) > 1:
            names = ", ".join(sorted(name for names in aliases for name in names))
            raise CommandError(f"resize needs --database, one of: {names}")
        meant = report.processes
        if do == "cancel":
            meant = [
                process
                for process in meant
                for loan in (loan for pool in process["pools"] for loan in pool["loans"])
                if loan["backend_pid"] == number
            ]
            if len(meant) > 1:  # two servers may have the same pid
                raise CommandError(
                    f"There are {len(meant)} loans of a backend {number}: see --loans;"
                    " choose by --process or --database."
                )
        if not meant:
            what = f"has a loan of backend {number}" if do == "cancel" else "has such a pool"
            silent = "".join(f" {silence}." for silence in report.collected.silent)
            raise CommandError(f"No running process of this project {what}.{silent}")
        return [process["pid"] for process in meant]


def _prometheus(report: Report) -> str:
    try:
        from django_connpool.contrib import prometheus
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    return prometheus.render(report)


def _pools(processes: list[Process]) -> Iterator[Any]:
    return (pool for process in processes for pool in process["pools"])


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
            f" {plural(found.elsewhere, 'socket')} of other projects, whose processes may have"
            f" ended: --all-projects asks them.\nThis one is {origin.project()!r};\n"
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
