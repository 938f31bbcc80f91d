"""A pooler before the server, such as PgBouncer, that lends a session for one transaction only.

Then a session is not its connection's: what a statement leaves in it is found by a stranger, and
not by who has sent it. So what certainly outlasts its transaction is refused, and nothing is
cleaned, but for the few settings that a pooler keeps for each of its clients.

A pooler is recognised without a question: it has no process of its own for a connection, and says
a number that no process can have. How it lends only a question tells, which a pooler that is busy
answers late: so it is asked by `manage.py check --database` and nobody else. Two connections that
are answered by the same process are a proof.
"""

from __future__ import annotations

import re
from typing import Any

from psycopg import NotSupportedError, OperationalError
from psycopg.pq import Escaping, ExecStatus

from .liveness import PING_TIMEOUT, Answer, ask
from .statements import (
    ANYTHING,
    CHANNELS,
    CURSORS,
    FOREVER,
    LOCKS,
    PREPARED,
    SETTINGS,
    TEMP,
    Judge,
)

# What the option `behind` says of what stands at the other end of a connection.
AUTO = "auto"  # to be recognised
PGBOUNCER = "pgbouncer"  # a session is lent for a transaction

# Of Linux. Others have smaller numbers, but for AIX, which PostgreSQL has left.
LARGEST_PID = 1 << 22

_REFUSED = "unsupported startup parameter"

# A kind of dirt of its own: settings of a client, as the pooler keeps them.
TRACKED = 1 << 24
# What PgBouncer sees to that each client has as it has set it, whichever session it is lent
# (its docs, "Features"). All of them are reported by the server.
_TRACKED = (
    b"client_encoding",
    b"DateStyle",
    b"TimeZone",
    b"standard_conforming_strings",
    b"application_name",
)
_NAMES = "|".join(name.decode() for name in _TRACKED)
_SETS_TRACKED = re.compile(
    rf"\s*(?:set\s+(?:session\s+)?(?:{_NAMES}|time\s+zone|names)\b|reset\s+\w+\s*;?\s*\Z"
    rf"|select\s+(?:pg_catalog\.)?set_config\s*\(\s*'(?:{_NAMES})'\s*,)",
    re.IGNORECASE | re.ASCII,
)
_SET_CONFIG = re.compile(r"set_config", re.IGNORECASE | re.ASCII)
_TEMPORARY = re.compile(
    r"\bcreate\s+(?:or\s+replace\s+)?(?:(?:global|local)\s+)?temp(?:orary)?\b|\bpg_temp\b"
    r"|\binto\s+temp(?:orary)?\b",
    re.IGNORECASE | re.ASCII,
)
_DROPPED = re.compile(r"\bon\s+commit\s+drop\b", re.IGNORECASE | re.ASCII)
_WITH_HOLD = re.compile(r"\bwith\s+hold\b", re.IGNORECASE | re.ASCII)

# Comments, and texts in quotes.
_LITERAL = re.compile(
    r"--[^\n\r]*|/\*.*?\*/|(?P<tag>\$\w*\$).*?(?P=tag)|'(?:[^']|'')*'", re.DOTALL | re.ASCII
)
_by_text = Judge()  # which knows nothing of functions: a name of theirs may be that of a column

LASTING = SETTINGS | CHANNELS | LOCKS | PREPARED | TEMP | CURSORS | FOREVER

# What to do instead.
_INSTEAD = {
    SETTINGS: "a setting: write SET LOCAL in a transaction, or ALTER ROLE ... SET",
    CHANNELS: "a channel to listen on: connect to the server itself for that",
    LOCKS: "an advisory lock: take pg_advisory_xact_lock() in a transaction",
    PREPARED: "a prepared statement",
    TEMP: "a temporary object: say ON COMMIT DROP in a transaction",
    CURSORS: "a cursor WITH HOLD: set DISABLE_SERVER_SIDE_CURSORS, or read in a transaction",
    FOREVER: "what only the end of the session undoes",
}


def refuse_lasting(query: Any, conn: Any) -> None:
    """Raise NotSupportedError for a statement that certainly leaves something in its session.

    What may, or may not, passes: a DO block, a procedure, a function that does so inside. And what
    only stands in a literal, such as the body of a function that is made.
    """
    text = _text(query, conn)
    bare = _LITERAL.sub(_emptied, text)
    bits = _by_text.judge(bare)
    if bits & ANYTHING == ANYTHING:
        return
    for kind, instead in _INSTEAD.items():
        if bits & kind and _is_certain(kind, text, bare):
            raise NotSupportedError(_refusal(instead))


def _emptied(literal: re.Match[str]) -> str:
    return " " if literal[0][:2] in ("--", "/*") else "''"


def refuse_held() -> None:
    """Raise NotSupportedError for a cursor that outlasts its transaction."""
    raise NotSupportedError(_refusal(_INSTEAD[CURSORS]))


def _refusal(instead: str) -> str:
    return (
        "behind a pooler that lends a session for one transaction (pool option 'behind'), a "
        f"stranger would get {instead}"
    )


def _is_certain(kind: int, text: str, bare: str) -> bool:
    """Whether a text leaves such a thing behind; `bare`: without its literals."""
    if kind == SETTINGS:
        alone = ";" not in text.rstrip("; \t\r\n") and len(_SET_CONFIG.findall(text)) < 2
        return not (alone and _SETS_TRACKED.match(text))
    if kind == TEMP:
        return _TEMPORARY.search(bare) is not None and _DROPPED.search(bare) is None
    if kind == CURSORS:
        return _WITH_HOLD.search(bare) is not None
    return True


def _text(query: Any, conn: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("latin-1")
    return query if isinstance(query, str) else str(query.as_string(conn))


def restoring(pgconn: Any, reported: dict[bytes, bytes | None]) -> list[tuple[int, bytes]]:
    """What gives a client the settings back that it had, as far as a pooler keeps them for it."""
    return [
        (TRACKED, _set(pgconn, name, value))
        for name in _TRACKED
        if (value := reported.get(name)) is not None and pgconn.parameter_status(name) != value
    ]


def _set(pgconn: Any, name: bytes, value: bytes) -> bytes:
    quoted = Escaping(pgconn).escape_literal
    return b"SELECT pg_catalog.set_config(%b, %b, false)" % (quoted(name), quoted(value))


def born_with(pgconn: Any) -> list[tuple[int, bytes]]:
    """What gives a session behind a pooler what its client has asked for, after RESET ALL.

    The pooler has told the server by SET, so that RESET means what the pooler has connected with.
    """
    return [
        (SETTINGS, _set(pgconn, name, value))
        for name in _TRACKED
        if (value := pgconn.parameter_status(name)) is not None
    ]


def explained(error: OperationalError) -> OperationalError:
    """A refusal of a pooler's, with what to do about it; others as they are."""
    if _REFUSED not in str(error):
        return error
    return type(error)(
        f"{str(error).rstrip()}\nPgBouncer refuses what is asked for as a session begins. "
        'Set the pool option "behind" to "pgbouncer", so that command_timeout is not sent, and '
        "give other options to the role on the server: ALTER ROLE ... SET ..."
    )


# -- Recognising it -----------------------------------------------------------------------


def is_likely(pgconn: Any) -> bool:
    """Whether the other end has no process of its own for this connection, as it seems."""
    said = pgconn.backend_pid
    return bool(said < 0 or said > LARGEST_PID)


class _Number(Answer):
    """The answer to a question for one number."""

    __slots__ = ("number",)

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        self.number = 0

    def _take(self, result: Any) -> None:
        super()._take(result)
        if result.status == ExecStatus.TUPLES_OK and result.ntuples:
            self.number = int(result.get_value(0, 0) or 0)


def process_behind(pgconn: Any, patience: float = PING_TIMEOUT) -> int:
    """The process that answers at the moment; 0 where that cannot be told, or is no news.

    Raises OperationalError when there is no answer in so many seconds.
    """
    answer = _Number(pgconn)
    ask(answer, b"SELECT pg_catalog.pg_backend_pid()", patience)
    return answer.number if answer.number not in (0, pgconn.backend_pid) else 0
