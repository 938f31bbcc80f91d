"""Medians of interleaved rounds, and the table they are printed in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def interleaved(
    subjects: Sequence[Callable[[], float]], rounds: int, share: float | None = None
) -> list[float]:
    """Call each subject once a round, in turn; return the median of what each returned.

    With `share` the value below which that share of them lies: a low one for what can only be
    made longer by whatever else the machine does.
    """
    results: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, found in zip(subjects, results, strict=True):
            found.append(subject())
    if share is not None:
        return [quantile(found, share) for found in results]
    return [statistics.median(found) for found in results]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], share: float = 0.0) -> str:
    """The median of values, and between what they lie; `share` of them is left out at each end."""
    middle, least, most = (quantile(values, each) for each in (0.5, share, 1.0 - share))
    if least == most:
        return _cell(middle)
    return f"{_cell(statistics.median(values))} ({_cell(least)} to {_cell(most)})"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers are rounded to three digits."""
    cells = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *rest]))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def _cell(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 1000
        else (f"{value:.0f}" if isinstance(value, float) else str(value))
    )
