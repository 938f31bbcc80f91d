"""The package's loggers say a thing once in a burst, and then how often it was said besides.

A filter on each of them: what differs from a message only in its numbers, or has the same `burst`
among its extra attributes, is one burst with it.
"""

from __future__ import annotations

import atexit
import logging
import re
import threading
import time

from . import forks, threads
from .background import NEVER, background

# One for each concern. (Whoever answers on the status socket says each failure once by himself.)
# What is set for `django_connpool` or `django_connpool.pool` goes for all.
POOL = "django_connpool.pool"
LOGGERS = (
    *(f"{POOL}.{concern}" for concern in ("background", "connecting", "loans", "overload")),
    *(f"{POOL}.sessions", f"{POOL}.sharing"),
    "django_connpool.signals",
)
SECONDS = 10.0  # of a burst; one that lasts longer is told of every so many

# Lines of code are not numbers in this sense: another line is another message.
_NUMBER = re.compile(r"(?<![:A-Za-z\d])\d+(?:\.\d+)?")
_KEPT = ("pool", "in_use", "waiting", "reason", "burst")  # of the first's attributes


def logger(concern: str) -> logging.Logger:
    """The logger of one of the pool's concerns."""
    name = f"{POOL}.{concern}"
    assert name in LOGGERS, name
    return logging.getLogger(name)


class _Burst:
    def __init__(self, record: logging.LogRecord, until: float) -> None:
        self.record = record
        self.until = until
        self.more = 0

    def tell(self) -> None:
        """Log how often it was said besides, and count anew."""
        more, self.more = self.more, 0
        first = self.record
        if not more:
            return
        extra = {name: getattr(first, name) for name in _KEPT if hasattr(first, name)}
        to = logging.getLogger(first.name)
        told = to.makeRecord(
            *(first.name, first.levelno, first.pathname, first.lineno),
            "%d more within %.0f s like this: %s",
            (more, SECONDS, first.getMessage()),
            None,
            first.funcName,
            {**extra, "repeated": more},
        )
        if not to.disabled:
            to.callHandlers(told)


class Bursts(logging.Filter):
    """Lets the first of a burst pass. Also a task of the background thread, which ends them."""

    def __init__(self) -> None:
        super().__init__()
        self._ticket = background.join(self, lasts=False)
        self.forget()

    def forget(self) -> None:
        """Nothing was said: at first, and in a forked child."""
        self._lock = threading.RLock()  # a signal handler may log in the middle of a section
        self._bursts: dict[object, _Burst] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = getattr(record, "burst", None) or _NUMBER.sub("0", record.getMessage())
        except Exception:  # an argument that cannot be shown: handlers tell of that, and go on
            return True
        key = (record.name, getattr(record, "pool", None), text)
        now = time.monotonic()
        with self._lock:
            over = burst = self._bursts.get(key)
            if burst is not None and now < burst.until:
                burst.more += 1
                return False
            self._bursts[key] = _Burst(record, now + SECONDS)
        if over is not None:  # no thread has been there to say so
            over.tell()
        self._ticket.by(now + SECONDS)
        return True

    def run(self, now: float) -> float:
        """Have those told of that are over."""
        over = []
        with self._lock:
            for key, burst in list(self._bursts.items()):
                if now >= burst.until and burst.more:
                    over.append(burst)
                    burst.until = now + SECONDS
                elif now >= burst.until:
                    del self._bursts[key]
            again = min((burst.until for burst in self._bursts.values()), default=NEVER)
        if over:  # a log handler may take its time
            thread = threading.Thread(target=_tell, args=(over,), name="connpool-log", daemon=True)
            if not threads.start(thread):
                _tell(over)
        return again

    def tell_all(self) -> None:
        """At the end of the process: what was not told yet."""
        with self._lock:
            bursts = list(self._bursts.values())
        _tell(bursts)


def _tell(bursts: list[_Burst]) -> None:
    for burst in bursts:
        burst.tell()


bursts = Bursts()
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(bursts)
atexit.register(bursts.tell_all)
forks.in_child(bursts.forget, forks.Floor.BACKGROUND)
