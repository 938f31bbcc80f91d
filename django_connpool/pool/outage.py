"""The time since connecting began to fail: when to ask again, and who waits for it to end."""

from __future__ import annotations

import random

from django_connpool.redaction import one_line, public

FIRST_RETRY = 0.05  # seconds
YOUNG_RETRY = 0.25  # at the most, while borrowers wait for a young outage to end
LAST_RETRY = 1.0  # while anyone asks
LAZY_RETRY = 15.0  # while nobody does, and only `min_size` is missing
FORGOTTEN = 60.0  # seconds without an attempt, after which a failure begins an outage of its own

# Kinds of refusal, as `Opener.meaning` sorts them.
STARTING = "starting"  # waiting helps
FULL = "full"  # waiting helps while somebody may give back
REFUSED = "refused"
UNFIT = "unfit"  # by the user's own check, of a connection just opened: the next may pass

_LATE = float("inf")  # when nothing is young any more


def again(error: BaseException) -> BaseException:
    """Return the error anew, for one more borrower.

    The same object raised in several threads would grow one common traceback. The copy has
    the class and the text of the original and keeps it as its cause; but for the statement
    that it may be about. The numbers of a timeout are its, too.
    """
    error = public(error)
    try:
        copy = error.__class__(*error.args)
    except Exception:  # a class of the user's with arguments of its own
        return error
    if hasattr(error, "numbers"):
        copy.numbers = error.numbers  # type: ignore[attr-defined]
    copy.__cause__ = error
    return copy


class Outage:
    """The time since connecting began to fail. Guarded by the pool's lock."""

    __slots__ = (
        "attempts",
        "error",
        "failed_at",
        "heals",
        "kind",
        "patience",
        "reported",
        "resumed_at",
        "retry_at",
        "since",
    )

    def __init__(
        self, error: BaseException, now: float, kind: str, heals: bool, patience: float = 0.0
    ) -> None:
        self.since = now
        self.patience = patience  # seconds for which it is young, and waited for
        self.attempts = 0
        self.reported = False  # `reconnect_failed` was called
        self.resumed_at = 0.0  # when the pool was, in the middle of it
        self.error = error
        self.retry_at = self.failed_at = now
        self.another(error, now, kind, heals, asked=True)

    def another(
        self,
        error: BaseException,
        now: float,
        kind: str,
        heals: bool,
        asked: bool,
        began: float | None = None,
    ) -> None:
        """Note one more failure; the next attempt waits twice as long, capped and jittered.

        `kind`, `heals`: what it is, and whether time may do away with it. `asked`: whether a
        borrower is waiting for the outcome. `began`: when the attempt did; of several at the same
        time only one counts.
        """
        self.error = error
        self.kind = kind
        self.heals = heals
        if self.attempts and began is not None and began < self.failed_at:
            return
        if now > self.failed_at + FORGOTTEN:
            self.since, self.attempts, self.reported = now, 0, False
        longest = LAST_RETRY if asked else LAZY_RETRY
        if asked and self.is_young(now):
            longest = YOUNG_RETRY
        delay = min(FIRST_RETRY * 2 ** min(self.attempts, 16), longest)
        self.attempts += 1
        self.failed_at = now
        self.retry_at = now + delay * random.uniform(0.5, 1.0)

    def resume(self, now: float) -> None:
        """Somebody says that the server is back: ask it, and believe no attempt of before."""
        self.resumed_at = self.retry_at = now

    def is_answered_by(self, began: float) -> bool:
        """Whether an attempt that began then tells what those in line may hope for."""
        return began >= self.resumed_at

    def is_young(self, now: float) -> bool:
        """Whether the server is still waited for; not when time does not heal what it says."""
        return self.heals and now < self.since + self.patience

    def hurry(self, now: float = _LATE) -> float:
        """Somebody asks, so the next attempt must not be far; return when it is due."""
        longest = YOUNG_RETRY if self.is_young(now) else LAST_RETRY
        self.retry_at = min(self.retry_at, self.failed_at + longest)
        return self.retry_at

    def waiting_cannot_help(self, loans: int, closing: int, now: float = _LATE) -> bool:
        """Whether waiting for a connection cannot help: nobody may give one back either.

        Nor is the outage young enough to be waited for, nor does one of our own leave a place
        to a new one, where there are not enough.
        """
        if self.kind in (STARTING, UNFIT) or loans or self.is_young(now):
            return False
        return not (closing and self.kind == FULL)

    def place_is_free(self, now: float) -> None:
        """One of our connections is gone: when places were lacking, one is worth an attempt."""
        if self.kind == FULL:
            self.retry_at = now


def in_words(outage: Outage) -> str:
    """What is wrong, for a message that goes on after it."""
    said = "the check of a new connection: " if outage.kind == UNFIT else ""
    return said + one_line(outage.error)
