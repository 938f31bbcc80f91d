"""Visitors: a bounded number of threads that send requests and measure the answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from . import interrupts
from .mix import Visit

# Longer than a borrower waits for a connection: the reason shall be the site's.
ANSWER_TIMEOUT = 15
# A new connection now and then, so that both workers keep getting their share of the visitors.
VISITS_A_CONNECTION = 20


@dataclass
class Answers:
    """What came back: seconds of each good answer, and how the others failed."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.elapsed if self.elapsed else 0.0

    def percentile(self, percent: int) -> float:
        """Seconds within which so many percent of the good answers came."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0


class Load:
    """
    Sends each visit once, ``concurrency`` at a time, for ``seconds`` at most.

    ``on_answer`` is called after each, in the visitor's thread.
    """

    def __init__(
        self,
        port: int,
        visits: Iterable[Visit],
        *,
        concurrency: int,
        seconds: float,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._answers = Answers()
        self._port = port
        self._visits = iter(visits)
        self._next = threading.Lock()
        self._seconds = seconds
        self._deadline = 0.0
        self._on_answer = on_answer
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._visit, name=f"visitor-{number}", daemon=True)
            for number in range(concurrency)
        ]

    def run(self) -> Answers:
        """Send them all. Raises Interrupted."""
        with self.running():
            while any(thread.is_alive() for thread in self._threads):
                interrupts.pause()
        return self._answers

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send them while the block runs."""
        started = time.monotonic()
        self._deadline = started + self._seconds
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._answers.elapsed = time.monotonic() - started
            self._stopped = True
            for thread in self._threads:
                thread.join()

    def _visit(self) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT)
            with closing(connection):
                for _ in range(VISITS_A_CONNECTION):
                    visit = self._take()
                    if visit is None:
                        return
                    self._send(connection, visit)

    def _take(self) -> Visit | None:
        with self._next:
            if self._stopped or time.monotonic() > self._deadline:
                return None
            return next(self._visits, None)

    def _send(self, connection: http.client.HTTPConnection, visit: Visit) -> None:
        started = time.monotonic()
        try:
            connection.request(visit.method, visit.path, visit.body)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._answers.failures.append(f"{visit.path}: {error!r}")
        else:
            if response.status < 400:
                self._answers.seconds.append(time.monotonic() - started)
            else:
                self._answers.failures.append(f"{visit.path}: {response.status}")
        self._on_answer()
