"""What was measured: a table, and three sentences that follow its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from .contenders import Contender
from .load import Answers

# Two figures that differ by less are the same to one run of a few seconds.
NOISE = 0.1
# How many requests a restart meets on the server is chance.
CHANCE = 4


@dataclass(frozen=True)
class Run:
    """One contender's part of the story."""

    contender: Contender
    everyday: Answers
    beside: Answers  # ordinary pages, while others are on the slow one
    restart: Answers
    opened: int
    most: int


@dataclass(frozen=True)
class Circumstances:
    """What the sentences have to name."""

    slow_visitors: int
    partner_seconds: float
    what_happened: str  # to the server, or to the connections alone


@dataclass(frozen=True)
class Row:
    """A figure of every run; none where there was no good answer."""

    name: str
    figure: Callable[[Run], float | None]
    written: Callable[[float], str]
    more_is_better: bool = False
    noise: float = NOISE  # a share of the best figure
    chance: float = 0  # in whole figures


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _whole(number: float) -> str:
    return f"{number:.0f}"


EVERYDAY = Row("answers/s", lambda run: run.everyday.per_second, _whole, more_is_better=True)
OPENED = Row("connections opened", lambda run: run.opened, _whole)
MOST = Row("open at once", lambda run: run.most, _whole, noise=0)
BESIDE = Row("90 % of the others within", lambda run: run.beside.percentile(90), milliseconds)
FAILED = Row(
    "requests failed", lambda run: len(run.restart.failures), _whole, noise=0, chance=CHANCE
)
LONGEST = Row("longest wait", lambda run: run.restart.longest, milliseconds)

SECTIONS: dict[str, list[Row]] = {
    "everyday": [
        EVERYDAY,
        Row("half within", lambda run: run.everyday.percentile(50), milliseconds),
        Row("99 % within", lambda run: run.everyday.percentile(99), milliseconds),
        Row("requests failed", lambda run: len(run.everyday.failures), _whole, noise=0),
    ],
    "slow page": [
        Row("half of the others within", lambda run: run.beside.percentile(50), milliseconds),
        BESIDE,
        Row("requests failed", lambda run: len(run.beside.failures), _whole, noise=0),
    ],
    "restart": [FAILED, Row("of", lambda run: run.restart.asked, _whole), LONGEST],
    "all the time": [OPENED, MOST],
}
# Says how busy the visitors were, and nothing about who is better.
UNJUDGED = ("of",)


def best(row: Row, runs: Sequence[Run]) -> list[Run]:
    """Those with the best figure, and those that cannot be told from it. Empty if all are."""
    known = [(figure, run) for run in runs if (figure := row.figure(run)) is not None]
    if not known:
        return []
    first = (max if row.more_is_better else min)(figure for figure, _ in known)
    slack = row.noise * abs(first) + row.chance
    found = [run for figure, run in known if abs(figure - first) <= slack]
    return [] if len(found) == len(runs) else found


def side_by_side(runs: Sequence[Run]) -> Table:
    """The measurements, a column for each run; a star marks the best."""
    table = Table(
        title="Measured just now (* the best, and what is too near to it to tell)",
        title_justify="left",
    )
    table.add_column("")
    for run in runs:
        table.add_column(run.contender.name, justify="right")
    for section, rows in SECTIONS.items():
        table.add_row(section, style="bold")
        for row in rows:
            stars = [] if row.name in UNJUDGED else best(row, runs)
            cells = [_written(row, run) + (" *" if run in stars else "  ") for run in runs]
            table.add_row(f"  {row.name}", *cells)
        table.add_section()
    return table


def sentences(runs: Sequence[Run], told: Circumstances) -> list[tuple[str, str]]:
    """Three, each with what its figures mean."""
    everyday = _each(runs, lambda run: f"{_written(EVERYDAY, run)} requests/s")
    opened, most = (", ".join(_written(row, run) for run in runs) for row in (OPENED, MOST))
    beside = _each(runs, lambda run: _written(BESIDE, run))
    restart = _each(
        runs,
        lambda run: (
            f"{len(run.restart.failures)} of {run.restart.asked} requests failed, "
            f"the longest wait was {_written(LONGEST, run)}"
        ),
    )
    return [
        (
            f"Everyday load: {everyday}{_judged(EVERYDAY, runs)} Over all scenes the server had "
            f"{most} connections at once, of {opened} that were opened.",
            "A connection is a process of the server: those at once are what it must have room "
            "for, and each opening is a wait for the request that needs it.",
        ),
        (
            f"Beside {told.slow_visitors} visitors of a page that waits "
            f"{told.partner_seconds:g} s for another service, nine of ten other pages came "
            f"within: {beside}{_judged(BESIDE, runs)}",
            "A connection that a waiting request keeps is missing to the others; who has no bound "
            "opens one more, and django-connpool lends on what a waiting request does not use.",
        ),
        (
            f"{told.what_happened}: {restart}{_judged(FAILED, runs, 'fewest failures')}",
            "What was running on the server at that moment fails with everybody; beyond that it "
            "matters whether a request gets an error, or waits until the server is back.",
        ),
    ]


def failures(runs: Sequence[Run]) -> list[str]:
    """How the first requests of each scene failed that should not have."""
    return [
        f"{run.contender.name}: {failure}"
        for run in runs
        for answers in (run.everyday, run.beside)
        for failure in answers.failures[:3]
    ]


def _each(runs: Sequence[Run], say: Callable[[Run], str]) -> str:
    return "; ".join(f"{run.contender.name} {say(run)}" for run in runs)


def _judged(row: Row, runs: Sequence[Run], praise: str = "best") -> str:
    """How the sentence ends."""
    if len(runs) == 1:
        return "."
    found = best(row, runs)
    if not found:
        return "; no difference to speak of."
    return f"; {praise}: {' and '.join(run.contender.name for run in found)}."


def _written(row: Row, run: Run) -> str:
    figure = row.figure(run)
    return "no answer" if figure is None else row.written(figure)
