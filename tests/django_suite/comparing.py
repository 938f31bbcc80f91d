"""Two runs, test by test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .explained import Entry
from .running import Outcomes

MISSING = {"outcome": "did not run", "why": ""}
BAD = ("failed", "error")


@dataclass
class Comparison:
    """What came of comparing a run with the stock engine's."""

    same: int = 0
    told_apart: list[str] = field(default_factory=list)  # test ids, unexplained
    explained: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)  # explained, and yet no difference
    failed_alike: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        return self.same + len(self.explained)

    @property
    def failed(self) -> int:
        return len(self.told_apart) + len(self.stale)


def compare(stock: Outcomes, ours: Outcomes, entries: Mapping[str, Entry]) -> Comparison:
    """Compare how each test ended; an explained one that ends alike counts as a failure."""
    found = Comparison()
    for test in sorted(stock.keys() | ours.keys()):
        ends = [run.get(test, MISSING)["outcome"] for run in (stock, ours)]
        if ends[0] != ends[1]:
            (found.explained if test in entries else found.told_apart).append(test)
        elif test in entries:
            found.stale.append(test)
        else:
            found.same += 1
            if ends[0] in BAD:
                found.failed_alike.append(test)
    return found


def report(mode: str, found: Comparison, stock: Outcomes, ours: Outcomes) -> None:
    """Print what a reader has to know, the worst last."""
    if found.failed_alike:
        print(f"\n{mode}: failed with both engines, so nothing was learned from them:")
        for test in found.failed_alike:
            print(f"    {test}: {_error(stock[test]['why'])}")
    if found.explained:
        print(f"\n{mode}: ended otherwise, as explained: {', '.join(found.explained)}")
    for test in found.stale:
        print(f"\n{mode}: explained, but it ends alike, so take it out: {test}")
    for test in found.told_apart:
        with_stock, with_ours = stock.get(test, MISSING), ours.get(test, MISSING)
        print(f"\n{mode}: TOLD APART: {test}")
        print(f"    stock: {with_stock['outcome']}; ours: {with_ours['outcome']}")
        print("    " + (with_ours["why"] or with_stock["why"]).rstrip().replace("\n", "\n    "))


def _error(text: str) -> str:
    """The line of a traceback that names the error."""
    errors = re.findall(r"^[\w.]+(?:Error|Exception|Exit)\b.*", text, re.MULTILINE)
    return errors[-1] if errors else "no traceback"
