"""Giving a session that was changed the state it was born with, while nobody waits for it.

The statements are sent when the connection is given back, and their result is taken when it
is next borrowed, by when it has long arrived. That also proves that the session is alive.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import Any

from psycopg import OperationalError
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

from .liveness import Answer, ask, send
from .private import forget_prepared
from .statements import (
    ANYTHING,
    CHANNELS,
    CURSORS,
    FOREVER,
    HELD,
    LOCKS,
    PREPARED,
    RENAMED,
    ROLES,
    SEQUENCES,
    SETTINGS,
    TEMP,
)

_MARK = b"django_connpool_asks"
# Several statements in one message are one transaction: the clean-up ends here, whatever becomes
# of the question. What is left of the message is the next, in which SET LOCAL ends.
_BEFORE_QUESTION = (
    b"; BEGIN; COMMIT; SELECT 1 AS " + _MARK + b"; SET LOCAL statement_timeout = 4000; "
)
SEND_TIMEOUT = 1.0  # seconds
TRY_TIMEOUT = 5.0  # seconds

# Of an engine that speaks PostgreSQL's language in part: a feature that is not supported, a
# function that there is not, a statement whose syntax is unknown.
_UNKNOWN_STATES = (b"0A000", b"42883", b"42601")
_NEEDED = (b"RESET ALL", b"DEALLOCATE ALL")  # of what each server has

# What DISCARD ALL does (PostgreSQL docs, "DISCARD"), in parts: it may not stand in one message
# with others, it throws away plans that nothing asks to throw away, and it does not say what
# becomes of a role that every session of a user begins with.
_UNDO = (
    (CURSORS | HELD, b"CLOSE ALL"),
    # First of all back to the user who may do the rest, and to the limits of time that hold.
    (ROLES, b"RESET SESSION AUTHORIZATION"),
    (ROLES, b"RESET ROLE"),  # done by the former, but that is not documented
    (SETTINGS, b"RESET ALL"),
    (CHANNELS, b"UNLISTEN *"),
    (LOCKS, b"SELECT pg_catalog.pg_advisory_unlock_all()"),
    (PREPARED, b"DEALLOCATE ALL"),
    (TEMP, b"DISCARD TEMP"),
    (SEQUENCES, b"DISCARD SEQUENCES"),
)


def statements(
    dirt: int, setup: Iterable[tuple[int, bytes]], lacking: frozenset[bytes] = frozenset()
) -> tuple[bytes, int]:
    """What undoes these kinds of dirt, and does anew what the session was born with.

    But for the statements that the server is `lacking`. Return the text, and the kinds that it
    undoes, which may be more.
    """
    undo = tuple(each for each in _UNDO if each[1] not in lacking) if lacking else _UNDO
    return _statements(undo, dirt, tuple(setup))


@lru_cache(maxsize=256)
def _statements(
    undo: tuple[tuple[int, bytes], ...], dirt: int, setup: tuple[tuple[int, bytes], ...]
) -> tuple[bytes, int]:
    dirt = _widened(dirt, setup)
    chosen = [statement for kinds, statement in (*undo, *setup) if dirt & kinds]
    return b"; ".join(chosen), dirt


def _widened(dirt: int, setup: Sequence[tuple[int, bytes]]) -> int:
    """With what has to be undone because it is about to be done again."""
    before = None
    while dirt != before:
        before = dirt
        for kinds, _ in setup:
            if dirt & kinds:
                dirt |= kinds & ANYTHING
    return dirt


class Cleaning(Answer):
    """A clean-up under way. The connection is nobody's until its outcome is known.

    A question may ride along. That it fails does not make the session unclean.
    """

    __slots__ = ("_asks", "answer", "encoding", "is_last_use", "is_unknown", "refusal", "undoes")

    def __init__(self, pgconn: Any, undoes: int, encoding: str = "utf-8") -> None:
        super().__init__(pgconn)
        self.undoes = undoes  # kinds of dirt
        self.encoding = encoding
        self.answer: Any = None  # the result of the question
        self.refusal = ""  # why there is none
        self.is_last_use = False  # it cannot be cleaned, and is closed with the answer
        self.is_unknown = False  # the server does not know a statement of it
        self._asks = False  # what comes from here on is about the question

    def _take(self, result: Any) -> None:
        if not self._asks:
            super()._take(result)
            state = result.error_field(DiagnosticField.SQLSTATE) or b""
            if state in _UNKNOWN_STATES:
                # Not its text: it may quote what the session was set up with.
                self.is_unknown, self.refusal = True, f"refused with {state.decode()}"
            # (Asked of a result with no column, libpq tells the handlers of notices.)
            self._asks = bool(result.nfields) and result.fname(0) == _MARK
        elif result.status == ExecStatus.FATAL_ERROR:
            self.refusal = result.get_error_message(self.encoding)
        elif result.status == ExecStatus.TUPLES_OK:
            self.answer = result

    def outcome(self, patience: float = 0.0) -> bool | None:
        """Whether the session is clean; None when that is not known after so many seconds."""
        outcome = super().outcome(patience)
        if outcome and self.undoes & CHANNELS:
            while self.pgconn.notifies() is not None:  # for whoever has listened before
                pass
        return outcome


def is_possible(dirt: int, setup: Sequence[tuple[int, bytes]] | None) -> bool:
    """Whether a session can be cleaned of this; else only closed."""
    return not dirt or not (dirt & FOREVER or setup is None)


def begin(
    conn: Any,
    dirt: int,
    setup: Sequence[tuple[int, bytes]] | None,
    question: bytes = b"",
    lacking: frozenset[bytes] = frozenset(),
) -> Cleaning | None:
    """Send what cleans the session; None when it cannot be cleaned and has to be closed.

    Nothing to clean needs no `setup`. With a `question`, a statement whose answer is taken with the
    outcome. `lacking`: see `find_lacking`.
    """
    if not is_possible(dirt, setup) or conn.pgconn.transaction_status != TransactionStatus.IDLE:
        return None
    if dirt & RENAMED:
        dirt |= PREPARED  # what psycopg has prepared goes, and all the rest with it
    text, dirt = statements(dirt, setup or (), lacking) if dirt else (b"", 0)
    if question:
        text += _BEFORE_QUESTION + question if text else _BEFORE_QUESTION[2:] + question
    pgconn = conn.pgconn
    try:
        if not send(pgconn, text, time.monotonic() + SEND_TIMEOUT):
            return None
    except OperationalError:
        return None
    if dirt & PREPARED and not forget_prepared(conn):
        return None
    return Cleaning(pgconn, dirt, conn.info.encoding if question else "utf-8")


# -- Engines that know a part of it ---------------------------------------------------------


def find_lacking(pgconn: Any) -> frozenset[bytes]:
    """Try each statement that cleans; return those that the server does not know.

    What it cannot undo, because it has no such thing, nobody can have left. Raises OperationalError
    when there is no answer in time.
    """
    tried = (statement for _, statement in _UNDO if statement not in _NEEDED)
    return frozenset(statement for statement in tried if _is_unknown(pgconn, statement))


def kinds_of(lacking: frozenset[bytes]) -> int:
    """The kinds of dirt that the server cannot be asked to undo, or not all of it."""
    return reduce(or_, (kinds for kinds, statement in _UNDO if statement in lacking), 0)


def _is_unknown(pgconn: Any, statement: bytes) -> bool:
    answer = Cleaning(pgconn, 0)
    ask(answer, statement, TRY_TIMEOUT)
    return answer.is_unknown
