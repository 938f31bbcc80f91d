"""What agents that trace put before psycopg's classes, functions and objects.

They replace a name in a module by a proxy of the class, a method by a proxy of the function, and
hand out proxies of connections, mostly of wrapt. A proxy has the class and the attributes of what
is behind it: only `type`, `is`, a weak reference and a count of references tell it apart. They do
so before or after we are imported, and stop it while connections are in use.
"""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg.connection
import psycopg.cursor

from django_connpool.process import bursts

logger = bursts.logger("sessions")

_said: set[tuple[str, type]] = set()


def is_class(found: Any) -> bool:
    """Whether it can be inherited from, as a proxy of a class cannot."""
    return issubclass(type(found), type)


def genuine(found: Any) -> Any:
    """The class behind the proxies that stand for it; what was found, when there is none."""
    behind = found
    while not is_class(behind):
        try:
            behind = behind.__wrapped__
        except AttributeError:
            return found
    return behind


# From where they are made: under `psycopg` an agent may have put a subclass.
Connection: Any = genuine(psycopg.connection.Connection)
Cursor: Any = genuine(psycopg.cursor.Cursor)
ClientCursor: Any = genuine(psycopg.ClientCursor)
RawCursor: Any = genuine(psycopg.RawCursor)
ServerCursor: Any = genuine(psycopg.ServerCursor)
BaseCursor: Any = Cursor.__base__


def behind(stands: Any, kind: Any = Connection) -> Any:
    """psycopg's connection behind the proxies, or its cursor; what was given, if there is none."""
    found = stands
    while not issubclass(type(found), kind):
        try:
            found = found.__wrapped__
        except AttributeError:
            return stands
    return found


def is_psycopgs(conn: Any) -> bool:
    """Whether what talks to the server is psycopg's, whatever stands before it."""
    return isinstance(getattr(conn, "pgconn", None), psycopg.pq.PGconn)


def say_once(text: str, kind: type) -> None:
    """Log what class makes the pool go a dearer way; once a process."""
    if (text, kind) not in _said:
        _said.add((text, kind))
        logger.warning(text, kind)
