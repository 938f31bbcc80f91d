"""What a run measured, and two of them side by side."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from .load import Answers


@dataclass(frozen=True)
class Run:
    """One run of the load against the site."""

    name: str
    answers: Answers
    opened: int
    most: int


def side_by_side(console: Console, runs: list[Run]) -> None:
    """Print the measurements of each run in a column of its own."""
    table = Table(title="Measured just now", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right")
    rows = {
        "requests answered": [str(len(run.answers.seconds)) for run in runs],
        "requests failed": [str(len(run.answers.failures)) for run in runs],
        "requests/s": [f"{run.answers.per_second:.0f}" for run in runs],
        "p50": [_milliseconds(run, 50) for run in runs],
        "p99": [_milliseconds(run, 99) for run in runs],
        "connections opened": [str(run.opened) for run in runs],
        "most open at once": [str(run.most) for run in runs],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)
    for run in runs:
        for failure in run.answers.failures[:3]:
            console.print(f"{run.name}: {failure}", style="red", markup=False)


def within_bound(console: Console, run: Run, *, workers: int, size: int) -> bool:
    """Say whether the server ever held more connections of the site than the pools may have."""
    bound = workers * size
    held = run.most <= bound
    verdict = f"never held more than {run.most}." if held else f"held {run.most}: TOO MANY."
    console.print(
        f"{workers} processes x max_size {size} = {bound} connections; the server {verdict}",
        highlight=False,
        soft_wrap=True,
    )
    return held


def _milliseconds(run: Run, percent: int) -> str:
    return f"{run.answers.percentile(percent) * 1000:.0f} ms"
