"""What a pool was like in the last minutes: for a chart, and for those who ask what went wrong.

It is noted whenever the pool is looked at anyway: when somebody asks for a snapshot (`poolstatus`,
a scrape, a probe, the page), when a borrower's time is over, and when the background thread comes
by, which it does each second while somebody stands in line. Nothing is noted where a loan comes by
that does not wait, and no thread comes for it. So there are gaps where nobody has looked and nobody
has waited. What happened in between is not lost: the longest line and the longest wait since the
last look are kept where borrowers line up and where waits are counted, and belong to the next look.
"""

from __future__ import annotations

from collections import deque
from typing import Any

EVERY = 5.0  # seconds that one moment of the chart stands for
KEPT = 60  # moments: five minutes
EVENTS = 20


class Moment:
    """The busiest look of `EVERY` seconds, with the peaks of all of them."""

    __slots__ = ("idle", "in_use", "longest_wait", "number", "offered", "timeouts", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number  # of `EVERY` seconds of the pool's clock
        self.in_use = self.offered = self.idle = self.waiting = self.timeouts = 0
        self.longest_wait = 0.0


class Event:
    """Something that went wrong, and how often it did so in a row."""

    __slots__ = ("at", "kind", "text", "times")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.at, self.text, self.times = 0.0, "", 0


class History:
    """The last minutes of one pool. The pool's lock guards it."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=KEPT)
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._most_waiting = 0  # since the last look
        self._timeouts = 0  # until the last look

    def lines_up(self, waiting: int) -> None:
        """Somebody stands in line, and so many do by now."""
        if waiting > self._most_waiting:
            self._most_waiting = waiting

    def look(
        self, now: float, in_use: int, offered: int, idle: int, waiting: int, longest_wait: float
    ) -> Moment:
        """Note what there is to see, and return the moment that it is a part of."""
        number = int(now // EVERY)
        if not self._moments or self._moments[-1].number != number:
            self._moments.append(Moment(number))
        moment = self._moments[-1]
        if in_use >= moment.in_use:
            moment.in_use, moment.offered, moment.idle = in_use, offered, idle
        moment.waiting = max(moment.waiting, waiting, self._most_waiting)
        moment.longest_wait = max(moment.longest_wait, longest_wait)
        self._most_waiting = waiting
        return moment

    def count_timeouts(self, moment: Moment, timeouts: int) -> None:
        """`timeouts`: since the pool was made, or counting began anew."""
        moment.timeouts += max(0, timeouts - self._timeouts)
        self._timeouts = timeouts

    def tell(self, now: float, kind: str, text: str) -> None:
        """Something went wrong. What is of the kind of the last takes its place."""
        if not self._events or self._events[-1].kind != kind:
            self._events.append(Event(kind))
        event = self._events[-1]
        event.at, event.text = now, text
        event.times += 1

    def moments(self, now: float) -> list[list[Any]]:
        """Those of the last minutes, the oldest first, each with how long ago it was.

        In the order of `MOMENT` in status/document.py.
        """
        last = int(now // EVERY)
        return [
            [
                (last - one.number) * EVERY,
                *(one.in_use, one.offered, one.idle, one.waiting),
                round(one.longest_wait, 3),
                one.timeouts,
            ]
            for one in self._moments
            if last - one.number < KEPT
        ]

    def events(self, now: float) -> list[dict[str, Any]]:
        """What went wrong, the newest first."""
        return [
            {"ago": max(0.0, now - event.at), "times": event.times, "text": event.text}
            for event in reversed(self._events)
        ]
