"""The report for people in full: every number of a pool, and its loans; and the servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from django_connpool.status import listeners, shared
from django_connpool.status.activity import Activity
from django_connpool.status.document import Loan, Pool, Process
from django_connpool.status.figures import Figures
from django_connpool.status.report import Report
from django_connpool.status.text import clean, duration, plural, shorten, shorten_path, wrapped

MIN_WIDTH = 80
MAX_ALIAS_WIDTH = 24

_HEADINGS = (
    "OPEN/MAX",
    "IN USE",
    "OFFERED",
    "IDLE",
    "WAITING",
    "LONGEST",
    "BORROWS",
    "TIMEOUTS",
    "OPENED",
    "LOST",
)
_GAP = "  "
_INDENT = "  "
_TRANSACTIONS = {
    "IDLE": "idle",
    "ACTIVE": "running",
    "INTRANS": "in transaction",
    "INERROR": "in failed transaction",
    "UNKNOWN": "broken",
}


def render(report: Report, width: int = 100) -> str:
    """The report as lines of text, `width` characters wide where the numbers allow it."""
    width = max(width, MIN_WIDTH)
    parts = []
    if report.processes:
        parts.append("\n".join(_processes(report.processes, width)))
    if report.collected.silent:
        parts.append("\n".join(clean(silence) for silence in report.collected.silent))
    if report.server:
        parts.append(servers(report, width))
    return "\n\n".join(parts)


def _processes(processes: Sequence[Process], width: int) -> Iterator[str]:
    total = Figures.total(Figures.of(pool) for process in processes for pool in process["pools"])
    pools = [pool for process in processes for pool in process["pools"]]
    label = _total_label(len(processes), len(pools))
    layout = _Layout([*map(alias_of, pools), label], [*map(Figures.of, pools), total], width)
    several = {
        "hosts": len({process["host"] for process in processes}) > 1,
        "projects": len({process.get("project", "") for process in processes}) > 1,
        "settings": len({process["settings"] for process in processes}) > 1,
    }
    yield layout.headings()
    for process in processes:
        yield layout.process(process, several)
        for pool in process["pools"]:
            yield layout.row(_INDENT + alias_of(pool), Figures.of(pool))
            yield from _remarks(pool, width)
            yield from _loans(pool["loans"], width)
        if not process["pools"]:
            yield f"{_INDENT}no pool open"
    yield layout.row(label, total)
    yield from shared.lines(processes, width)


class _Layout:
    """The widths of the columns, the same for all processes."""

    def __init__(self, labels: Sequence[str], rows: Sequence[Figures], width: int) -> None:
        self._width = width
        self._label = max(len(label) for label in labels) + len(_INDENT)
        table = [_HEADINGS, *[tuple(cells(row).values()) for row in rows]]
        self._columns = [max(map(len, column)) for column in zip(*table, strict=True)]

    def headings(self) -> str:
        return self._line("POOL", _HEADINGS)

    def row(self, label: str, figures: Figures) -> str:
        return self._line(label, tuple(cells(figures).values()))

    def process(self, process: Process, several: Mapping[str, bool]) -> str:
        """The process, with what tells it from others of the report."""
        host = f" on {shorten(process['host'], MAX_ALIAS_WIDTH)}" if several["hosts"] else ""
        head = f"pid {process['pid']}{host}{_GAP}"
        whose = process.get("project") if several["projects"] else None
        if several["settings"] and not whose:
            whose = process["settings"]
        tail = f"{_GAP}({shorten(whose, self._width // 2)})" if whose else ""
        room = self._width - len(head) - len(tail)
        return head + shorten(process["command"], room) + tail

    def _line(self, label: str, cells: Sequence[str]) -> str:
        numbers = [cell.rjust(w) for cell, w in zip(cells, self._columns, strict=True)]
        return _GAP.join([label.ljust(self._label), *numbers])


def alias_of(pool: Pool) -> str:
    return shorten(", ".join(pool["aliases"]) or pool["alias"], MAX_ALIAS_WIDTH)


def _total_label(processes: int, pools: int) -> str:
    if pools == processes:
        return plural(processes, "process", "processes")
    return f"{plural(processes, 'process', 'processes')}, {plural(pools, 'pool')}"


def cells(figures: Figures) -> dict[str, str]:
    """The numbers of a pool, by the headings of their columns."""
    numbers = (
        f"{figures.size}/{figures.max_size}",
        str(figures.in_use),
        str(figures.offered),
        str(figures.idle),
        str(figures.waiting),
        duration(figures.longest_wait) if figures.longest_wait > 0 else "-",
        str(figures.borrows),
        str(figures.timeouts),
        str(figures.opened),
        str(figures.lost),
    )
    return dict(zip(_HEADINGS, numbers, strict=True))


def _remarks(pool: Pool, width: int) -> Iterator[str]:
    """What explains the numbers of a pool that is not simply at work."""
    states = [state for state in ("closed", "suspended") if pool[state]]
    states += [f"{pool[state]} {state}" for state in ("opening", "closing") if pool[state]]
    if states:
        yield _INDENT * 2 + ", ".join(states)
    if error := pool.get("last_error"):
        # Whole: what it is about, the host say, is often at its end.
        yield from wrapped(f"last error: {' '.join(error.split())}", width, _INDENT * 2)
    if listening := pool.get("listening"):
        yield from wrapped(listeners.line(listening), width, _INDENT * 2)


def _loans(loans: Sequence[Loan], width: int) -> Iterator[str]:
    """The loans, the longest first."""
    ordered = sorted(loans, key=lambda loan: -loan["held"])
    shown = [
        (
            duration(loan["held"]),
            f"backend {loan['backend_pid']}",
            _TRANSACTIONS.get(loan["transaction"], loan["transaction"].lower()),
            shorten(loan["thread"], 26),
            loan.get("note") or "no request",
        )
        for loan in ordered
    ]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for loan, (held, *middle, note) in zip(ordered, shown, strict=True):
        known = [held.rjust(widths[0])]
        known += [text.ljust(w) for text, w in zip(middle, widths[1:], strict=False)]
        state = "offered" if loan.get("offered") else "on loan"
        line = _INDENT * 2 + _GAP.join([f"{state} {known[0]}", *known[1:]]) + _GAP
        yield line + shorten(note, width - len(line))
        if pinned := loan.get("pinned"):  # why others may not have it
            yield from wrapped(f"pinned: {pinned}", width, _INDENT * 4)
        for verb, site in (("taken at", loan.get("taken_at")), ("at", loan.get("at"))):
            if site:
                head = f"{_INDENT * 4}{verb} "
                yield head + shorten_path(site, width - len(head))


def servers(report: Report, width: int = 100) -> str:
    """What the servers say of their connections."""
    return "\n".join(_servers(report, max(width, MIN_WIDTH)))


def _servers(report: Report, width: int) -> Iterator[str]:
    for alias, answer in report.server.items():
        if "error" in answer:
            yield from wrapped(f"server of {alias!r} did not say: {answer['error']}", width, "")
        else:
            yield _activity(alias, answer)
            yield from _overbooked(alias, answer, report.processes)


def _overbooked(alias: str, found: Activity, processes: Sequence[Process]) -> Iterator[str]:
    """Whether the pools shown may ask for more than the server has."""
    if len({process.get("project") for process in processes}) > 1:
        return  # each may mean another server by that alias
    pools = [pool for process in processes for pool in process["pools"]]
    most = sum(pool["max_size"] for pool in pools if alias in pool["aliases"])
    admitted = found["max_connections"] - found["reserved"]
    if most > admitted:
        yield f"{_INDENT}too few: the pools of {alias!r} may open {most} in all"


def _activity(alias: str, found: Activity) -> str:
    states = sorted(found["states_in_database"].items(), key=lambda item: (-item[1], item[0]))
    here = ", ".join(f"{count} {state}" for state, count in states)
    line = (
        f"server of {alias!r}: {found['total']} of {found['max_connections']} connections"
        f" ({found['reserved']} reserved), {found['in_database']} in {found['database']!r}"
    )
    return clean(f"{line}: {here}" if here else line)
