"""The first screen: whether all is well, and why, before one line for each pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from django_connpool.status import shared
from django_connpool.status.document import Pool, Process
from django_connpool.status.figures import Figures
from django_connpool.status.readiness import STUCK
from django_connpool.status.report import Report
from django_connpool.status.table import MAX_ALIAS_WIDTH, alias_of, cells
from django_connpool.status.text import plural, shorten, wrapped
from django_connpool.status.verdict import WELL, WORDS, verdict

ROWS = 20  # of pools: more do not fit on a screen
_COLUMNS = ("OPEN/MAX", "IN USE", "OFFERED", "IDLE", "WAITING", "LONGEST", "TIMEOUTS")

Paint = Callable[[str, str], str]  # is given a verdict's word, and a text to colour by it


def plain(word: str, text: str) -> str:
    """A `Paint` without colours."""
    return text


@dataclass(frozen=True)
class Judged:
    """A pool with the verdict on it; or a process that did not answer, without a pool."""

    word: str
    reason: str
    process: Process | None = None
    pool: Pool | None = None

    @property
    def text(self) -> str:
        if self.process is None or self.pool is None:
            return self.reason
        return f"pid {self.process['pid']}, {alias_of(self.pool)}: {self.reason}"


def judge(report: Report, busy_after: float, stuck_after: float) -> list[Judged]:
    """The verdicts on all pools, the worst first; a process that hangs is stuck."""
    found = [Judged(STUCK, str(silence)) for silence in report.collected.silent]
    found += [
        Judged(*verdict(pool, busy_after, stuck_after), process, pool)
        for process in report.processes
        for pool in process["pools"]
    ]
    return sorted(found, key=lambda judged: -WORDS.index(judged.word))


def sum_up(judged: Sequence[Judged]) -> tuple[str, str]:
    """One verdict on all of them."""
    pools = [one.pool for one in judged if one.pool]
    bad = [one for one in judged if one.word != WELL]
    if bad:
        others = f"; {plural(len(bad) - 1, 'other')} not well either" if len(bad) > 1 else ""
        return bad[0].word, bad[0].text + others
    total = Figures.total(map(Figures.of, pools))
    waiting = plural(total.waiting, "borrower") + " in line" if total.waiting else "nobody waits"
    processes = len({id(one.process) for one in judged})
    where = f"{plural(len(pools), 'pool')} in {plural(processes, 'process', 'processes')}"
    # With a bound that pools share the sum of `max_size` is more than there may be.
    if any(pool.get("bounds") for pool in pools):
        used = f"{plural(total.in_use, 'connection')} in use"
    else:
        used = f"{total.in_use} of {total.max_size} connections are in use"
    in_vain = f"; {total.timeouts} waited in vain" if total.timeouts else ""
    return WELL, f"{waiting}, {used} ({where}){in_vain}"


def headline(judged: Sequence[Judged], width: int, paint: Paint = plain) -> str:
    """The verdict on all, with its reason."""
    word, reason = sum_up(judged)
    first, *rest = wrapped(f"{word}: {reason}", width, "")
    return "\n".join([paint(word, first[: len(word)]) + first[len(word) :], *rest])


def render(judged: Sequence[Judged], width: int, paint: Paint = plain) -> str:
    """A table of the pools, and what is wrong with each that is not well."""
    lines = list(_table([one for one in judged if one.pool], width, paint))
    lines += shared.lines([one.process for one in judged if one.process], width)
    bad = [one for one in judged if one.word != WELL]
    if len(bad) > 1:
        lines.append("")
        for one in bad[:ROWS]:
            lines += wrapped(f"{one.word}: {one.text}", width, "")
    return "\n".join(lines).rstrip()


def _table(judged: Sequence[Judged], width: int, paint: Paint) -> Iterator[str]:
    if not judged:
        return
    several_hosts = len({one.process["host"] for one in judged if one.process}) > 1
    shown = judged[:ROWS]
    rows = [_row(one.process, one.pool, several_hosts) for one in shown if one.process and one.pool]
    total = Figures.total(Figures.of(one.pool) for one in judged if one.pool)
    if len(judged) > 1:
        rows.append(["all", plural(len(judged), "pool"), *_chosen(total)])
    table = [["PROCESS", "POOL", *_COLUMNS], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    texts = [_line(row, widths) for row in table]
    yield f"{texts[0]}  VERDICT"
    for one, text in zip(shown, texts[1:], strict=False):
        room = width - len(text) - len("  stuck  ")
        command = shorten(one.process["command"], room) if one.process and room > 10 else ""
        yield f"{text}  {paint(one.word, one.word)}{' ' * (5 - len(one.word))}  {command}".rstrip()
    if len(judged) > ROWS:
        more = judged[ROWS:]
        word = more[0].word
        state = "all well" if word == WELL else f"the worst of them {word}"
        yield f"and {plural(len(more), 'more pool')}, {state}: --loans shows each"
    if len(judged) > 1:
        yield texts[-1]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    names = [cell.ljust(w) for cell, w in zip(row[:2], widths, strict=False)]
    numbers = [cell.rjust(w) for cell, w in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*names, *numbers])


def _row(process: Process, pool: Pool, several_hosts: bool) -> list[str]:
    host = f" on {shorten(process['host'], MAX_ALIAS_WIDTH)}" if several_hosts else ""
    return [f"{process['pid']}{host}", alias_of(pool), *_chosen(Figures.of(pool))]


def _chosen(figures: Figures) -> list[str]:
    found = cells(figures)
    return [found[column] for column in _COLUMNS]
