"""What the server said when it refused a connection, and when to ask again."""

from __future__ import annotations

import random

from .redaction import one_line, public

FIRST_RETRY = 0.1  # seconds
LAST_RETRY = 1.0  # while anyone asks
LAZY_RETRY = 15.0  # while nobody does, and only `min_size` is missing

# libpq gives a refused connection no SQLSTATE (PQerrorMessage is all there is), so the
# text has to tell. A server that speaks another language falls into REFUSED, which fails
# fast instead of waiting: the safe side.
STARTING = "starting"  # 57P03: waiting helps
FULL = "full"  # 53300: waiting helps while somebody may give back
REFUSED = "refused"
UNFIT = "unfit"  # by the user's own check, of a connection just opened: the next may pass

_STARTING_TEXTS = (
    "the database system is starting up",
    "the database system is not yet accepting connections",
    "the database system is in recovery mode",
)
_FULL_TEXTS = (
    "too many clients already",
    "too many connections for",
    "remaining connection slots are reserved",
)


def kind_of(error: BaseException) -> str:
    """Sort a failed attempt's error into STARTING, FULL or REFUSED."""
    text = str(error)
    if any(known in text for known in _STARTING_TEXTS):
        return STARTING
    if any(known in text for known in _FULL_TEXTS):
        return FULL
    return REFUSED


def again(error: BaseException) -> BaseException:
    """Return the error anew, for one more borrower.

    The same object raised in several threads would grow one common traceback. The copy has
    the class and the text of the original and keeps it as its cause; but for the statement
    that it may be about.
    """
    error = public(error)
    try:
        copy = error.__class__(*error.args)
    except Exception:  # a class of the user's with arguments of its own
        return error
    copy.__cause__ = error
    return copy


class Outage:
    """The time since connecting began to fail. Guarded by the pool's lock."""

    __slots__ = ("attempts", "error", "failed_at", "kind", "reported", "retry_at", "since")

    def __init__(self, error: BaseException, now: float, kind: str = "") -> None:
        self.since = now
        self.attempts = 0
        self.reported = False  # `reconnect_failed` was called
        self.error = error
        self.kind = REFUSED
        self.retry_at = self.failed_at = now
        self.another(error, now, asked=True, kind=kind)

    def another(self, error: BaseException, now: float, asked: bool, kind: str = "") -> None:
        """Note one more failure; the next attempt waits twice as long, capped and jittered.

        `asked`: whether a borrower is waiting for the outcome. `kind`: when not the error tells.
        """
        delay = min(FIRST_RETRY * 2 ** min(self.attempts, 16), LAST_RETRY if asked else LAZY_RETRY)
        self.attempts += 1
        self.error = error
        self.kind = kind or kind_of(error)
        self.failed_at = now
        self.retry_at = now + delay * random.uniform(0.5, 1.0)

    def hurry(self) -> float:
        """Somebody asks, so the next attempt must not be far; return when it is due."""
        self.retry_at = min(self.retry_at, self.failed_at + LAST_RETRY)
        return self.retry_at

    def hopeless(self, loans: int, closing: int) -> bool:
        """Whether waiting for a connection cannot help: nobody may give one back either.

        Nor does one of our own leave a place to a new one, where there are not enough.
        """
        if self.kind in (STARTING, UNFIT) or loans:
            return False
        return not (closing and self.kind == FULL)

    def place_is_free(self, now: float) -> None:
        """One of our connections is gone: when places were lacking, one is worth an attempt."""
        if self.kind == FULL:
            self.retry_at = now


def told(outage: Outage) -> str:
    """What is wrong, for a message that goes on after it."""
    said = "the check of a new connection: " if outage.kind == UNFIT else ""
    return said + one_line(outage.error)
