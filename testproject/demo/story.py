"""The story: the same three scenes with each contender, a leak, and what there is to say."""

from __future__ import annotations

import itertools
import linecache
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console

from testproject import embedded

from . import browser, interrupts, planted, report, site, watch
from .contenders import OURS, Contender
from .load import Answers, Load
from .mix import Visit, visits
from .pages import PARTNER_SECONDS
from .report import Circumstances, Run, milliseconds
from .screen import Screen
from .watch import ServerWatch

WARM_UP = 64
OTHER_VISITORS = 6  # beside those of the slow page
PAGE_SECONDS = 0.25  # in which each of them wants a page
FEW_VISITORS = 3  # while somebody looks around
LONG = 3600.0  # for a load that something else ends
BUSY_SHARE = 0.25  # of all cores; from there on others have a say in the figures
PLANTED = "/".join(Path(planted.__file__).parts[-2:])
STEPS = 4  # of each contender: it starts, and three scenes


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    seconds: float
    concurrency: int
    workers: int
    threads: int
    max_size: int

    @property
    def bound(self) -> int:
        """The most connections of all pools."""
        return self.workers * self.max_size

    @property
    def slow_visitors(self) -> int:
        """More than there are connections, so that it hurts where it can."""
        return self.bound + 4


class Story:
    """
    Tells it once, with a site on the port of ``listener``, whose page opens with ``token``.

    All methods raise ChildError, WatchError, EmbeddedServerError and Interrupted.
    """

    def __init__(
        self,
        scale: Scale,
        contenders: list[Contender],
        listener: socket.socket,
        token: str,
        terminal: Console | None = None,
    ) -> None:
        self._scale = scale
        self._contenders = contenders
        self._listener = listener
        self._shop = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._pools = f"{self._shop}look/{token}/"
        self._happened = "The server"
        # Of others: by now the demo has done nothing.
        self._load_before = os.getloadavg()[0]
        self._screen = Screen(1 + STEPS * len(contenders) + (OURS in contenders), terminal)

    def tell(self, keep: bool) -> bool:
        """
        Whether the server never held more connections than our pools may have.

        With ``keep`` the site stays until somebody interrupts.
        """
        where = (
            f'The shop itself: <a href="{escape(self._shop)}">{escape(self._shop)}</a>. '
            f'While django-connpool serves it: <a href="{escape(self._pools)}">its pools</a>.'
        )
        with browser.showing(self._screen.html, where) as port, self._screen.showing():
            self._begin(f"http://127.0.0.1:{port}/")
            runs = [self._part(contender) for contender in self._contenders]
            held = self._end(runs)
            if keep:
                self._stay()
            return held

    # -- The parts --------------------------------------------------------------------------

    def _begin(self, address: str) -> None:
        scale, say = self._scale, self._screen.say
        names = ", then ".join(one.name for one in self._contenders)
        say(f"The same shop under load, with {names}.", "bold")
        say(f"In your browser, as it goes on: {address}", whole=True)
        self._screen.step("the shop gets its tables and its goods")
        with watch.connect() as connection:
            version = connection.info.parameter_status("server_version")
        site.manage("migrate", "--verbosity", "0")
        site.manage("load_sample")
        say(
            f"PostgreSQL {version}; gunicorn with {scale.workers} processes of {scale.threads} "
            f"threads; a pool has at most {scale.max_size} connections in each process."
        )

    def _part(self, contender: Contender) -> Run:
        self._screen.say()
        self._screen.say(f"{contender.name}: {contender.how}", "bold")
        with ServerWatch() as server:
            self._screen.step(f"{contender.name}: gunicorn starts")
            with self._serving(contender) as port:
                self._load(port, visits(WARM_UP), self._scale.concurrency).run()
                everyday = self._everyday(port)
                beside = self._slow_page(port)
                restart = self._restart(port, server)
                if contender is OURS:
                    self._leak(port)
            run = Run(contender, everyday, beside, restart, server.opened(), server.most)
        self._tell(
            "connections", f"{run.opened} opened in all, {run.most} at once, counted by the server"
        )
        return run

    def _stay(self) -> None:
        self._screen.step("django-connpool stays, with a few visitors and the leak; Ctrl-C ends it")
        try:
            with self._serving(OURS) as port, self._load(port, _endless(), FEW_VISITORS).running():
                self._plant(port)
                self._look_around()
        except interrupts.Interrupted as interrupted:
            if interrupted.args[0] != signal.SIGINT:
                raise

    def _look_around(self) -> None:
        say = self._screen.say
        say()
        say("Look around; Ctrl-C ends it.", "bold")
        say(f"The page of the pools: {self._pools}", whole=True)
        status = os.environ.get("CONNPOOL_STATUS_DIR")
        prefix = f"CONNPOOL_STATUS_DIR={status} " if status else ""
        say("In another terminal:")
        say(
            f"  {prefix}{sys.executable} {Path(sys.argv[0]).resolve()} poolstatus --loans",
            whole=True,
        )
        while True:
            interrupts.pause()

    # -- The scenes -------------------------------------------------------------------------

    def _everyday(self, port: int) -> Answers:
        visitors = self._scale.concurrency
        self._screen.step(f"everyday: {visitors} visitors")
        answers = self._load(port, _endless(), visitors, self._scale.seconds).run()
        self._tell(
            "everyday",
            f"{answers.per_second:.0f} answers/s to {visitors} visitors, {_percentiles(answers)}",
        )
        return answers

    def _slow_page(self, port: int) -> Answers:
        slow = self._scale.slow_visitors
        self._screen.step(f"slow page: {slow} visitors wait for another service")
        partner = itertools.repeat(Visit("GET", "/partner/"))
        # Each time a new connection: so both processes get some of them.
        hogs = Load(port, partner, concurrency=slow, seconds=LONG, visits_a_connection=1)
        others = Load(
            port,
            _endless(),
            concurrency=OTHER_VISITORS,
            seconds=self._scale.seconds,
            every=PAGE_SECONDS,
        )
        with hogs.running():
            # From when on they are in its midst.
            interrupts.wait(PARTNER_SECONDS)
            answers = others.run()
        self._tell(
            "slow page",
            f"{slow} more visitors are on a page that waits {PARTNER_SECONDS:g} s for another "
            f"service; the other pages: {_percentiles(answers, 90)}",
        )
        return answers

    def _restart(self, port: int, server: ServerWatch) -> Answers:
        seconds = self._scale.seconds
        self._screen.step("restart: the server goes away, and comes back")
        load = self._load(port, _endless(), self._scale.concurrency)
        with load.running():
            interrupts.wait(seconds / 4)
            began = time.monotonic()
            if embedded.restart():
                self._happened = "The server was restarted"
                what = f"the server restarts, in {milliseconds(time.monotonic() - began)}"
            else:
                count = server.end_all()
                self._happened = "All connections were ended by the server"
                what = f"the server, which is not the demo's own, ends {count} connections"
            interrupts.wait(seconds / 2)
        answers = load.answers
        self._tell(
            "restart",
            f"{what}; {len(answers.failures)} of {answers.asked} requests failed, "
            f"the longest wait was {milliseconds(answers.longest or 0)}",
        )
        return answers

    def _leak(self, port: int) -> None:
        self._screen.step("a leak is planted, and found")
        count = self._plant(port)
        shown = site.manage("poolstatus", "--loans")
        say = self._screen.say
        say()
        say(
            f"A leak: {_times(count, 'visit')} to a page that starts a thread, which begins a "
            "transaction and never ends it",
            "bold",
        )
        say("$ manage.py poolstatus --loans", "bold")
        say(shown.rstrip(), whole=True)
        found = re.findall(rf"at (\S+{re.escape(PLANTED)}):(\d+) in (\w+)", shown)
        if not found:
            say("poolstatus did not name the line, which it should have.", "red")
            return
        path, number, function = found[0]
        held = _times(len(found), "connection")
        say(f"Held by one line of code: {held}, in {function}, {PLANTED} line {number}:")
        say(f"    {linecache.getline(path, int(number)).strip()}", "cyan")
        say("The page of the pools shows the same.")

    def _plant(self, port: int) -> int:
        # Not all of a process: it goes on.
        count = max(1, self._scale.max_size - 1)
        self._load(port, [Visit("GET", "/subscribe/")] * count, 1).run()
        return count

    # -- The end ----------------------------------------------------------------------------

    def _end(self, runs: list[Run]) -> bool:
        scale, say = self._scale, self._screen.say
        say()
        say(report.side_by_side(runs))
        for failure in report.failures(runs):
            say(failure, "red")
        if scale.workers * scale.threads < scale.slow_visitors + OTHER_VISITORS:
            say("With so few threads a part of the waits is for a thread, with all of them.")
        if self._load_before > BUSY_SHARE * (cores := os.cpu_count() or 1):
            say(
                f"The machine was busy with other things (a load of {self._load_before:.1f} on "
                f"{cores} cores): what changed there between the parts is in the figures, too."
            )
        told = Circumstances(scale.slow_visitors, PARTNER_SECONDS, self._happened)
        for sentence, meaning in report.sentences(runs, told):
            say()
            say(sentence)
            say(f"  {meaning}")
        ours = [run for run in runs if run.contender is OURS]
        return all(run.most <= scale.bound for run in ours)

    # -- Small things -----------------------------------------------------------------------

    def _serving(self, contender: Contender) -> AbstractContextManager[int]:
        return site.serve(
            self._listener,
            workers=self._scale.workers,
            threads=self._scale.threads,
            contender=contender,
        )

    def _load(
        self, port: int, ways: Iterable[Visit], concurrency: int, seconds: float = LONG
    ) -> Load:
        return Load(port, ways, concurrency=concurrency, seconds=seconds)

    def _tell(self, what: str, text: str) -> None:
        self._screen.say(f"  {what + ':':<13}{text}")


def _endless() -> Iterator[Visit]:
    return itertools.cycle(visits(2000))


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _percentiles(answers: Answers, percent: int = 99) -> str:
    half, most = answers.percentile(50), answers.percentile(percent)
    failed = f"{len(answers.failures)} failed"
    if half is None or most is None:
        return f"none answered, {failed}"
    return f"half within {milliseconds(half)}, {percent} % within {milliseconds(most)}, {failed}"
