"""The two runs, one after the other, and what there is to say about them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import report, site, watch
from .load import Load
from .mix import visits
from .report import Run
from .watch import ServerWatch

WARM_UP = 64
POOLSTATUS_SECONDS = 20


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    requests: int
    seconds: int
    concurrency: int
    workers: int
    threads: int
    port: int


class Comparison:
    """Runs the same load without pooling and with it, and prints what came out."""

    def __init__(self, scale: Scale, max_size: int) -> None:
        self._scale = scale
        self._max_size = max_size
        self._console = Console()
        self._poolstatus = ""

    def run(self) -> bool:
        """
        Whether the server never held more connections than the pools may have.

        Raises ChildError, WatchError and Interrupted.
        """
        scale, console = self._scale, self._console
        with watch.connect() as connection:
            server = connection.info.parameter_status("server_version")
        console.print(
            f"PostgreSQL {server}, gunicorn with {scale.workers} x {scale.threads} threads, "
            f"max_size {self._max_size} in each process,\n"
            f"{scale.requests} requests, {scale.concurrency} at once",
            highlight=False,
        )
        site.manage("migrate", "--verbosity", "0", pool=False)
        with self._progress() as progress:
            stock = self._measure("without pooling", progress, pool=False)
            pooled = self._measure("django-connpool", progress, pool=True)
        report.side_by_side(console, [stock, pooled])
        console.print(
            "\n[bold]manage.py poolstatus --loans --server[/], under that load", highlight=False
        )
        console.out(self._poolstatus.rstrip(), highlight=False)
        console.print(
            "(One of the server's connections is the demo's own, to count the others.)\n",
            highlight=False,
        )
        return report.within_bound(console, pooled, workers=scale.workers, size=self._max_size)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<18}"),
            # Not rich's red: a run that its time has ended is no fault.
            BarColumn(complete_style="cyan"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )

    def _measure(self, name: str, progress: Progress, *, pool: bool) -> Run:
        scale = self._scale
        task = progress.add_task(name, total=scale.requests)
        site.manage("load_sample", pool=False)
        with ServerWatch() as server:
            serving = site.serve(
                pool=pool, port=scale.port, workers=scale.workers, threads=scale.threads
            )
            with serving as port:
                Load(
                    port, visits(WARM_UP), concurrency=scale.concurrency, seconds=scale.seconds
                ).run()
                answers = Load(
                    port,
                    visits(scale.requests),
                    concurrency=scale.concurrency,
                    seconds=scale.seconds,
                    on_answer=lambda: progress.advance(task),
                ).run()
                if pool:
                    self._ask_poolstatus(port)
            # poolstatus asks the server over one connection of its own.
            return Run(name, answers, server.opened() - pool, server.most)

    def _ask_poolstatus(self, port: int) -> None:
        # After the measurement: on a small machine the command itself would slow the site down.
        load = Load(
            port,
            itertools.cycle(visits(self._scale.requests)),
            concurrency=self._scale.concurrency,
            seconds=POOLSTATUS_SECONDS,
        )
        with load.running():
            self._poolstatus = site.manage("poolstatus", "--loans", "--server", pool=True)
