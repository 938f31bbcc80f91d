"""Visitors: a bounded number of threads that send requests and measure the answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from . import interrupts
from .mix import Visit

# Longer than a borrower waits for a connection: the reason shall be the site's.
ANSWER_TIMEOUT = 15
# A new connection now and then, so that both workers keep getting their share of the visitors.
VISITS_A_CONNECTION = 20
# Who got an error comes again after a moment; without it, whoever fails fastest fails most often.
RETRY_SECONDS = 0.2


@dataclass
class Answers:
    """What came back: seconds of each good answer, how the others failed, seconds of all."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.elapsed if self.elapsed else 0.0

    @property
    def asked(self) -> int:
        return len(self.waits)

    @property
    def longest(self) -> float | None:
        """Seconds of the longest wait for an answer or an error."""
        return max(self.waits, default=None)

    def percentile(self, percent: int) -> float | None:
        """Seconds within which so many percent of the good answers came; None without any."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else None


class Load:
    """
    Sends each visit once, ``concurrency`` at a time, for ``seconds`` at most.

    With ``every`` each visitor has a timetable, a visit in so many seconds: whoever is kept waiting
    is late for the next ones, and their waits count from when they were due. Without it a visitor
    asks as soon as the last answer is there, and who is answered at once asks most.
    """

    def __init__(
        self,
        port: int,
        visits: Iterable[Visit],
        *,
        concurrency: int,
        seconds: float,
        every: float = 0,
        visits_a_connection: int = VISITS_A_CONNECTION,
    ) -> None:
        self.answers = Answers()
        self._port = port
        self._visits = iter(visits)
        self._next = threading.Lock()
        self._seconds = seconds
        self._every = every
        self._visits_a_connection = visits_a_connection
        self._deadline = 0.0
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._visit,
                args=[every * number / concurrency],
                name=f"visitor-{number}",
                daemon=True,
            )
            for number in range(concurrency)
        ]

    def run(self) -> Answers:
        """Send them all. Raises Interrupted."""
        with self.running():
            self._wait_for_all()
        return self.answers

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send them while the block runs. Raises Interrupted, and then waits for no answer."""
        started = time.monotonic()
        self._deadline = started + self._seconds
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.answers.elapsed = time.monotonic() - started
            self._stopped.set()
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        while any(thread.is_alive() for thread in self._threads):
            interrupts.pause()

    def _visit(self, after: float) -> None:
        due = time.monotonic() + after
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT)
            with closing(connection):
                for _ in range(self._visits_a_connection):
                    if self._every:
                        self._stopped.wait(max(0.0, due - time.monotonic()))
                    visit = self._take()
                    if visit is None:
                        return
                    self._send(connection, visit, due if self._every else time.monotonic())
                    due += self._every

    def _take(self) -> Visit | None:
        with self._next:
            if self._stopped.is_set() or time.monotonic() > self._deadline:
                return None
            return next(self._visits, None)

    def _send(self, connection: http.client.HTTPConnection, visit: Visit, started: float) -> None:
        failure = ""
        try:
            connection.request(visit.method, visit.path, visit.body)
            response = connection.getresponse()
            response.read()
            if response.status >= 400:
                failure = f"{visit.path}: {response.status}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failure = f"{visit.path}: {error!r}"
        seconds = time.monotonic() - started
        self.answers.waits.append(seconds)
        if failure:
            self.answers.failures.append(failure)
            self._stopped.wait(RETRY_SECONDS)
        else:
            self.answers.seconds.append(seconds)
