"""Whether a pool knows which functions on the server change a session (hidden.py).

It asks in its first connection: as it is opened, when nobody waits for it, else as it is given
back. It asks again in one that is opened later, and after a statement that makes or changes such
things. The question rides along with a clean-up, and a thread of its own reads the answer. Until
that is known every session is cleaned: a moment's clean-ups cost little, and a leak in the first
moment is one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakSet

from . import hidden
from .cleaning import Cleaning
from .statements import Judge

if TYPE_CHECKING:
    from .changes import Changes

ASK_AGAIN = 60.0  # seconds after which a connection that is opened is a reason to ask once more
Key = tuple[bytes | None, ...]  # which database it is: a pool may be given others as it goes
_COLUMNS = range(7)


class Asked(Protocol):
    """What is looked at of a session."""

    pgconn: Any
    changes: Changes
    cleaning: Cleaning | None

    @property
    def is_lent(self) -> bool: ...


class Question(NamedTuple):
    """One that is under way, in which session, and how many definitions its answer knows of."""

    session: Asked
    cleaning: Cleaning
    key: Key
    number: int


class Trust:
    """What is known of the functions in a pool's database, or databases.

    `lost` says that there is something to do about it when a connection is given back. The rest
    is guarded by a lock of its own, inside which no other is taken.
    """

    __slots__ = (
        "_asked_at",
        "_asking",
        "_defining",
        "_doubted",
        "_due",
        "_found",
        "_judge",
        "_known",
        "_lock",
        "_number",
        "_refused",
        "answers",
        "lost",
    )

    def __init__(self, judge: Judge) -> None:
        self.lost = False
        self.answers: deque[Question] = deque()  # not read yet
        self._judge = judge
        self._lock = threading.RLock()
        self._number = 1  # of definitions that there may have been
        self._known: dict[Key, int] = {}  # how many of them are known
        self._found: dict[Key, hidden.Hidden | None] = {}
        self._due: set[Key] = set()  # to be asked again, though nothing is in doubt
        self._asked_at: dict[Key, float] = {}
        self._refused: set[Key] = set()  # those that did not tell, when they were last asked
        self._asking: Question | None = None
        self._defining: WeakSet[Changes] = WeakSet()  # sessions that may not have committed theirs
        self._doubted: dict[Asked, int] = {}  # loans that began before something was found

    def opened(self, session: Asked) -> None:
        """A connection was opened."""
        key = _key(session)
        with self._lock:
            if key not in self._known:
                self._known[key] = 0
            elif (now := time.monotonic()) >= self._asked_at.get(key, now) + ASK_AGAIN:
                self._due.add(key)
            self._look()

    def defined(self, known: Changes) -> None:
        """A session is about to make or change a function, or what calls one."""
        with self._lock:
            self.lost = True
            self._number += 1
            self._defining.add(known)

    def ends(self, session: Asked) -> bool:
        """A loan ends. Return whether it may have changed its session without being seen."""
        known = session.changes
        with self._lock:
            if known in self._defining:  # committed by now: what was told before does not count
                self._number += 1
                self._defining.discard(known)
            self._look()
            return known.last is not None and (
                bool(self._defining)
                or self._known.get(_key(session)) != self._number
                or self._doubted.get(session) == known.loan
            )

    def question(self, session: Asked) -> bytes:
        """What is to be asked in this session; nothing when it is known, or asked elsewhere."""
        key = _key(session)
        with self._lock:
            wanted = key in self._due or self._known.get(key) != self._number
            if not wanted or self._defining or self._is_asking():
                return b""
            if key in self._refused and time.monotonic() < self._asked_at[key] + ASK_AGAIN:
                return b""
            return hidden.query(session.pgconn.server_version)

    def asked(self, session: Asked, cleaning: Cleaning) -> None:
        """The question is under way."""
        key = _key(session)
        with self._lock:
            self._asking = Question(session, cleaning, key, self._number)
            self._asked_at[key] = time.monotonic()

    def answered(self, cleaning: Cleaning) -> None:
        """A clean-up has ended well. What it was told, if anything, is there to be read."""
        with self._lock:
            if self._asking is not None and self._asking.cleaning is cleaning:
                self.answers.append(self._asking)

    def read(self, question: Question) -> bool:
        """Learn from an answer; return whether more is hidden than was known.

        Raises RuntimeError when the server refuses to tell. Call `learned` when all watches
        go by what the judge knows now.
        """
        cleaning = question.cleaning
        if cleaning.answer is None:
            raise RuntimeError(cleaning.refusal or "no answer")
        found = hidden.find(_rows(cleaning), self._judge.named)
        with self._lock:
            self._found[question.key] = found
            before = self._judge.hidden
            after = hidden.merged(self._found.values())
            if after != before:
                self._judge.learn(after)
        return after is not None and (before is None or not after.names <= before.names)

    def learned(self, question: Question, doubted: Iterable[Asked]) -> None:
        """What was read counts from now on. But loans that are out have not gone by it."""
        with self._lock:
            self._known[question.key] = question.number
            self._doubted.update({session: session.changes.loan for session in doubted})
            self._refused.discard(question.key)
            self._is_over(question)

    def refused(self, question: Question) -> bool:
        """The server does not tell: ask later. Return whether that is news."""
        with self._lock:
            news = question.key not in self._refused
            self._refused.add(question.key)
            self._is_over(question)
        return news

    def _is_over(self, question: Question) -> None:
        self._due.discard(question.key)
        if self._asking is question:
            self._asking = None
        self._look()

    def _is_asking(self) -> bool:
        asking = self._asking
        if asking is None:
            return False
        if asking.session.cleaning is not asking.cleaning and asking not in self.answers:
            self._asking = None  # the connection was closed meanwhile
            return False
        return True

    def _look(self) -> None:
        for session, loan in list(self._doubted.items()):
            if not session.is_lent or session.changes.loan != loan:
                del self._doubted[session]
        self.lost = bool(
            self._due
            or self._defining
            or self._doubted
            or any(known != self._number for known in self._known.values())
        )


def _key(session: Asked) -> Key:
    pgconn = session.pgconn
    return pgconn.db, pgconn.host, pgconn.port


def _rows(cleaning: Cleaning) -> Iterator[list[str]]:
    result, encoding = cleaning.answer, cleaning.encoding
    for row in range(result.ntuples):
        yield [(result.get_value(row, at) or b"").decode(encoding, "replace") for at in _COLUMNS]
