"""What a server means that refuses a connection: whether waiting helps, and for what."""

from __future__ import annotations

import re

from psycopg import OperationalError

# libpq gives a refused connection no SQLSTATE (PQerrorMessage is all there is), so the
# text has to tell. What is not known, as from a server that speaks another language, is
# REFUSED, and waited for as long as the outage is young.
STARTING = "starting"  # 57P03: waiting helps
FULL = "full"  # 53300: waiting helps while somebody may give back
REFUSED = "refused"

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
_LASTING_TEXTS = (
    "authentication failed",  # by whatever method
    "no password supplied",
    "password retrieved from file",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    '" does not exist',  # a database or a role
    "no such database",  # PgBouncer's words
    "no such user",
    "is not permitted to log in",
    "permission denied",
    "unsupported startup parameter",
    "unrecognized configuration parameter",
    "invalid value for parameter",
    "server does not support SSL",
    "certificate verify failed",
    "root certificate file",
    "does not match host name",
    "certificate present, but not private key",
    "alert certificate required",  # the server's opinion of ours, as these
    "alert unknown ca",
    "alert bad certificate",
    "alert certificate expired",
    "alert decrypt error",
    "GSSAPI encryption required",
    "channel binding required",
    "authentication method requirement",
    "invalid connection option",
)
# Of those, what another user or password may do away with: SQLSTATE 28P01 and 28000.
_CREDENTIALS = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r'|role ".*" does not exist|no such user|is not permitted to log in'
)
# Of errors that have one, such as those of statements that set the session up: invalid
# authorization, no such database or schema, syntax error or access rule violation.
_LASTING_STATES = ("28", "3D", "3F", "42")


def meaning(error: BaseException) -> tuple[str, bool]:
    """What kind of refusal an error is, and whether time may do away with it."""
    return kind_of(error), heals(error)


def kind_of(error: BaseException) -> str:
    """Sort a failed attempt's error into STARTING, FULL or REFUSED."""
    text = str(error)
    if any(known in text for known in _STARTING_TEXTS):
        return STARTING
    if any(known in text for known in _FULL_TEXTS):
        return FULL
    return REFUSED


def heals(error: BaseException) -> bool:
    """Whether time may do away with the error: no server, one that goes down, a standby.

    Not what our user's own code raises, nor a server that says no to us and will again.
    """
    if not isinstance(error, (OperationalError, ConnectionError, TimeoutError)):
        return False
    text, state = str(error), getattr(error, "sqlstate", None) or ""
    return not (state.startswith(_LASTING_STATES) or any(lasts in text for lasts in _LASTING_TEXTS))


def refuses_credentials(error: BaseException) -> bool:
    """Whether the server has refused who wants to log in, or with what."""
    if (getattr(error, "sqlstate", None) or "").startswith("28"):
        return True
    if not isinstance(error, OperationalError):
        return False
    if _CREDENTIALS.search(str(error)):
        return True
    # In a language that is not known: a password was asked for, and given.
    asked = getattr(error.pgconn, "used_password", False) is True
    return asked and kind_of(error) == REFUSED and heals(error)
