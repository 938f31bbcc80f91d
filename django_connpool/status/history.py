"""How much was in use, and how many waited, while somebody watches: two small charts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from django_connpool.status.figures import Figures
from django_connpool.status.report import Report
from django_connpool.status.text import sparkline

LONGEST = 600  # reports that are remembered
_ROOM = 30  # characters of a line beside its chart


class History:
    """What each report so far has said of all pools together."""

    def __init__(self) -> None:
        self._seen: deque[Figures] = deque(maxlen=LONGEST)

    def lines(self, report: Report, width: int, marks: str) -> Iterator[str]:
        """Remember the report; the charts of as many as there is room for, the newest last."""
        pools = (pool for process in report.processes for pool in process["pools"])
        now = Figures.total(map(Figures.of, pools))
        self._seen.append(now)
        shown = list(self._seen)[-max(width - _ROOM, 1) :]
        most = max(figures.max_size for figures in shown)
        used = sparkline([figures.in_use for figures in shown], most, marks)
        yield f"in use   {used}  {now.in_use} of {now.max_size}"
        longest = max(figures.waiting for figures in shown)
        waiting = sparkline([figures.waiting for figures in shown], longest, marks)
        yield f"waiting  {waiting}  {now.waiting}, at most {longest}"
