"""The counters of a pool. psycopg_pool's keys, and ours beside them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from .slot import Slot

# Upper bounds of the histograms' buckets, in seconds; the last bucket has no bound.
BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
REMEMBERED = 40  # durations; what came before counts for 0.8 ** 40 in the moving average
MOST_KEPT = 100_000  # durations, for whoever asked for each of them and does not come

_bucket_of = partial(bisect_left, BOUNDS)  # the number of the bucket that a duration falls into


class Histogram:
    """How often a duration fell into each bucket, and their sum in seconds.

    Durations are only noted, with `note`, and counted by `count`: when somebody looks, and
    now and then. Counting touches much memory, which a busy pool would do twice a loan.
    """

    __slots__ = ("_buckets", "_noted", "_total", "kept", "longest", "mean", "note")

    def __init__(self, mean: float | None = None) -> None:
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self.mean = mean  # seconds, moving average of those counted
        self.longest = 0.0  # of those counted since `take_longest`
        self.kept: deque[float] | None = None  # those counted, where each is asked for
        self._noted: list[float] = []
        self.note = self._noted.append

    def count(self) -> None:
        """Count what was noted."""
        noted = self._noted[:]
        del self._noted[: len(noted)]
        if self.kept is not None:
            self.kept.extend(noted)
        if not noted:
            return
        buckets = self._buckets
        for bucket, number in Counter(map(_bucket_of, noted)).items():
            buckets[bucket] += number
        mean = noted[0] if self.mean is None else self.mean
        for seconds in noted[-REMEMBERED:]:
            mean += 0.2 * (seconds - mean)
        self.mean = mean
        self._total += sum(noted)
        self.longest = max(self.longest, max(noted))

    def take_longest(self) -> float:
        """The longest since this was asked last."""
        self.count()
        longest, self.longest = self.longest, 0.0
        return longest

    @property
    def total(self) -> float:
        self.count()
        return self._total

    def as_dict(self) -> dict[str, Any]:
        self.count()
        return {
            "count": sum(self._buckets),
            "sum": round(self._total, 6),
            "buckets": dict(zip([*map(str, BOUNDS), "+Inf"], self._buckets, strict=True)),
        }


class Stats:
    """Counts since the pool was made or `pop_stats` was called. The pool's lock guards them."""

    __slots__ = (
        "_at_once_kept",
        "closed",
        "connect",
        "connections_errors",
        "connections_lost",
        "connections_num",
        "hold",
        "loans_leaked",
        "loans_reclaimed",
        "peak",
        "requests_errors",
        "requests_num",
        "requests_queued",
        "requests_refused",
        "requests_timeouts",
        "returns_bad",
        "sessions_cleaned",
        "wait",
    )

    def __init__(self, mean_hold: float | None = None) -> None:
        self.requests_num = 0
        self.requests_queued = 0
        self.requests_refused = 0  # those that were not even let into the line
        self.requests_errors = 0
        self.requests_timeouts = 0
        self.returns_bad = 0
        self.connections_num = 0
        self.connections_errors = 0
        self.connections_lost = 0
        self.loans_reclaimed = 0
        self.loans_leaked = 0  # reported by `leak_after`, or reclaimed
        self.sessions_cleaned = 0
        self._at_once_kept = 0
        self.peak = 0  # most in use and in line at a time; it is looked at when somebody queues
        self.closed: dict[str, int] = {}  # reason: how many
        self.wait = Histogram()
        self.hold = Histogram(mean_hold)
        self.connect = Histogram()

    def anew(self) -> Stats:
        """Others that begin at zero, for the same pool."""
        others = Stats(self.mean_hold())
        others._at_once_kept = self._at_once_kept - self.at_once
        for old, new in zip(self._histograms(), others._histograms(), strict=True):
            new.kept = old.kept
        return others

    def _histograms(self) -> tuple[Histogram, ...]:
        return (self.wait, self.hold, self.connect)

    def count_again(self, slots: Iterable[Slot]) -> None:
        """Count loans that borrowers have begun without the lock."""
        for slot in slots:
            again = slot.again
            self.requests_num += again - slot.counted
            slot.counted = again

    def count(self) -> None:
        """Count what was only noted so far."""
        for histogram in self._histograms():
            histogram.count()

    @property
    def at_once(self) -> int:
        """Borrows that were served without standing in line: of these no wait is noted."""
        return self.requests_num - self.requests_queued - self.requests_refused

    def kept(self) -> dict[str, list[float]]:
        """The durations since the last call, and keep them from now on. No wait is one of 0."""
        self.count()
        found = [list(histogram.kept or ()) for histogram in self._histograms()]
        if self.wait.kept is not None:
            found[0] += [0.0] * (self.at_once - self._at_once_kept)
        self._at_once_kept = self.at_once
        for histogram in self._histograms():
            histogram.kept = deque(maxlen=MOST_KEPT)
        return dict(zip(("wait", "hold", "connect"), found, strict=True))

    def mean_hold(self) -> float | None:
        """How long loans last, in seconds, as a moving average; None before the first."""
        self.hold.count()
        return self.hold.mean

    def closed_for(self, reason: str) -> None:
        """A connection is gone, and will not come to have its loans counted any more."""
        self.count()
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def as_dict(self) -> dict[str, int]:
        """The flat counters; `_ms` are milliseconds, the rest are counts."""
        return {
            "requests_num": self.requests_num,
            "requests_queued": self.requests_queued,
            "requests_wait_ms": int(self.wait.total * 1000),
            "requests_refused": self.requests_refused,
            "requests_errors": self.requests_errors,
            "requests_timeouts": self.requests_timeouts,
            "usage_ms": int(self.hold.total * 1000),
            "returns_bad": self.returns_bad,
            "connections_num": self.connections_num,
            "connections_ms": int(self.connect.total * 1000),
            "connections_errors": self.connections_errors,
            "connections_lost": self.connections_lost,
            "loans_reclaimed": self.loans_reclaimed,
            "loans_leaked": self.loans_leaked,
            "sessions_cleaned": self.sessions_cleaned,
        }

    def in_detail(self) -> dict[str, Any]:
        """The histograms, and why connections were closed."""
        return {
            "histograms": {
                "wait": self.wait.as_dict(),
                "hold": self.hold.as_dict(),
                "connect": self.connect.as_dict(),
            },
            "closed_for": dict(self.closed),
        }
