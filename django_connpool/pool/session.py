"""The state a psycopg connection object keeps on this side: seen, compared, put back.

All of it lies in the object's own dictionary, in its adapters, and in what it knows of
prepared statements. Comparing them takes a third of a microsecond, and also finds what a
later psycopg, or the borrower, has put there.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import Any

from psycopg.adapt import AdaptersMap

# Derived by psycopg from the isolation level and the like, when it begins a transaction.
_DERIVED = "_begin_statement"
_OF_PREPARING = ("prepare_threshold", "prepared_max")
# psycopg's maps are copied on write: as long as nobody registers anything, those of the
# connection and those of a copy made at its birth hold the same objects.
_IN_ADAPTERS = ("_dumpers", "_dumpers_by_oid", "_loaders", "types._registry")
_read = attrgetter(
    *(f"_prepared.{name}" for name in _OF_PREPARING),
    *(f"_adapters.{name}" for name in _IN_ADAPTERS),
)

# What the server reports by itself whenever it changes (PostgreSQL docs, "Asynchronous
# Operations"), so that reading it is free.
_REPORTED = (
    b"TimeZone",
    b"search_path",  # from PostgreSQL 18 on
    b"session_authorization",
    b"is_superuser",
    b"application_name",
    b"client_encoding",
    b"DateStyle",
    b"IntervalStyle",
    b"default_transaction_read_only",
    b"standard_conforming_strings",
)


def reported(pgconn: Any) -> list[bytes | None]:
    """What the server says of the session's settings, without being asked."""
    return [*map(pgconn.parameter_status, _REPORTED)]


class Birth:
    """What a connection object was like when nobody had borrowed it yet."""

    __slots__ = ("_inner", "adapters", "attributes", "reported")

    def __init__(self, conn: Any) -> None:
        known = isinstance(getattr(conn, "adapters", None), AdaptersMap)
        self.adapters = AdaptersMap(conn.adapters) if known else None
        self.attributes = {name: _copy(value) for name, value in vars(conn).items()}
        self.attributes["_pool"] = None
        self._inner = self._inner_of(conn)
        self.reported = reported(conn.pgconn) if known else []

    def _inner_of(self, conn: Any) -> tuple[Any, ...]:
        """As `_read` of the connection, but held by the copy, which nobody changes."""
        if self.adapters is None:
            return ()
        return tuple(getattr(conn._prepared, name) for name in _OF_PREPARING) + tuple(
            attrgetter(name)(self.adapters) for name in _IN_ADAPTERS
        )

    def differs(self, conn: Any) -> bool:
        """Whether the connection object is not as it was."""
        return bool(
            conn.__dict__ != self.attributes
            or (self.adapters is not None and _read(conn) != self._inner)
        )

    def restore(self, conn: Any) -> None:
        """Put the connection object back to what it was; it must not be in a transaction."""
        now = vars(conn)
        for name in now.keys() - self.attributes.keys():
            del now[name]
        for name, value in self.attributes.items():
            if name == _DERIVED:
                continue
            if name not in now or now[name] != value:
                now[name] = _copy(value)
                now[_DERIVED] = self.attributes.get(_DERIVED)
        if self.adapters is not None:
            self._restore_inner(conn)
        if _DERIVED in self.attributes:
            self.attributes[_DERIVED] = now[_DERIVED]

    def _restore_inner(self, conn: Any) -> None:
        if _read(conn) == self._inner:
            return
        for name, value in zip(_OF_PREPARING, self._inner, strict=False):
            setattr(conn._prepared, name, value)
        conn._adapters = self.attributes["_adapters"] = AdaptersMap(self.adapters)


def _copy(value: Any) -> Any:
    """A collection of its own, so that what is appended to the connection's is noticed."""
    return type(value)(value) if isinstance(value, (list, dict, set, deque)) else value
