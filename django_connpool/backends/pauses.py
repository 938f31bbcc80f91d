"""Between two statements of a wrapper that releases early: given back, or set aside for a moment.

The wrapper's side of bursts.py, which says what that is for.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from django_connpool import scopes
from django_connpool.process.cpython import running_loop

from . import loans
from .bursts import LONGEST, LOSS, PAUSES, SHORT, bursts, popped
from .holding import Holding
from .recall import leave_between, recaller


class Haste:
    """What a wrapper has learned of its own pauses: whether the next statement follows at once."""

    __slots__ = ("left_at", "pauses", "scores")

    def __init__(self) -> None:
        self.scores = [0] * PAUSES  # for each pause of the work: how surely it goes on at once
        self.pauses = 0  # so far, in the work under way
        self.left_at = 0.0  # when it last gave back early while others waited; 0.0: it did not

    @property
    def is_likely(self) -> bool:
        return self.scores[self.pauses % PAUSES] > 0

    def learn(self, ends: bool = False) -> bool:
        """Note whether a statement has followed at once; return whether the pause was short.

        `ends`: what follows is no statement, so that giving back had been the thing to do.
        """
        was_short = monotonic() - self.left_at < SHORT
        self.left_at = 0.0
        scores, pause = self.scores, self.pauses % PAUSES
        before = scores[pause]
        if not was_short:
            scores[pause] = max(before - LOSS, -LOSS)
        elif ends:
            scores[pause] = min(before, max(before - 1, 0))
        elif before < LOSS:
            scores[pause] = before + 1
        return was_short


class Pausing(Holding):
    """What a wrapper does with its connection at rest, between two statements."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.haste = Haste()
        super().__init__(*args, **kwargs)

    def _pause(self, connection: Any) -> None:
        """Give back; in a burst of statements, while others wait, set aside."""
        if self.tells or not connection._pool.is_awaited:
            self._let_go(connection)
            return
        now = monotonic()
        work = scopes.current.get()
        self.haste.left_at = now
        if (
            not self.haste.is_likely
            or now - loans.since(connection) >= LONGEST
            or work is None
            or work.ended
        ):
            self._let_go(connection)
        else:
            self._set_aside(connection, now, work)

    def _let_go(self, connection: Any) -> None:
        """Give back, and go on later as if the connection had been held."""
        if self.tells:
            hooks = self.run_on_commit
            self.close()
            self.run_on_commit = hooks
            self._will_resume()
        else:
            if self.resumes is None:
                self._will_resume()
            self._hand_back(connection)
        leave_between(self)

    def _will_resume(self) -> None:
        """Go on from the same pool until the work that is under way ends."""
        self.resumes = self._binding
        work = scopes.current.get()
        if work is not None:
            work.resumers.add(self)

    def _set_aside(self, connection: Any, now: float, work: scopes.Scope) -> None:
        """Put it where others may take it. An interrupt leaves it to the end of the work."""
        aside, loan = [connection], loans.of(connection)
        if self.resumes is None:
            self.resumes = self._binding
        work.resumers.add(self)
        # With no call in between: a signal handler may come by, and finds it here or there.
        if self.is_between or self.connection is not connection:
            return
        self.connection = None
        loan.pinned = loans.BURST
        self.aside = aside
        work.borrowers.discard(self)
        bursts.aside.append((now, aside))
        if not bursts.is_watched:
            bursts.watch(now)
        leave_between(self)

    def _goes_on(self) -> bool:
        """Take up again what was set aside, unless somebody else has, or it has died."""
        if running_loop() is not None:
            return False  # which is refused by what comes next
        # First: a signal handler that comes by has to find what was set aside.
        was_short = self.haste.learn()
        work = scopes.current.get()
        aside, self.aside = self.aside, None
        try:
            connection = aside.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):  # somebody has taken it, or ended the work meanwhile
            return False
        self.errors_occurred = self.is_between = False
        self.connection = connection
        try:
            loans.pin(connection, None)
            if work is not None:
                work.borrowers.add(self)
            # A moment ago it answered, and while a connection is held nobody asks either.
            alive = was_short or loans.is_alive(connection)
        except BaseException:
            self._hand_back(connection)
            raise
        if not alive:
            self._hand_back(connection)
            return False
        if work is not None and work.ended:
            recaller.soon(self)
        binding = self._binding
        if binding is not None and binding.options.max_hold_idle:
            recaller.watch(binding)
        return True

    def end_burst(self) -> None:
        """Give back what was set aside, unless somebody has taken it. In whichever thread."""
        if self.aside is None:
            return
        self.haste.learn(ends=True)
        aside, self.aside = self.aside, None
        for connection in popped(aside or []):
            connection._pool.putconn(connection)
