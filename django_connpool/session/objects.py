"""The state a psycopg connection object keeps on this side: noticed, compared, put back.

All of it lies in the object's own dictionary, in its adapters, and in what it knows of
prepared statements. Comparing them all costs most of a microsecond, so whoever sets one is
noticed: the connection's class, and those of its adapters, get a front that says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from psycopg.adapt import AdaptersMap
from psycopg.types import TypesRegistry

from .foreign import Connection, behind, is_class
from .private import ADAPTERS, AUTOCOMMIT, DERIVED, POOL, registered

_OF_PREPARING = ("prepare_threshold", "prepared_max")

SIGN = "connpool_sign"  # what lies on it for the session; see session.py
# What is another while it is on loan, or is not to be kept here.
_PASSING = (POOL, DERIVED, SIGN)

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


def reported_by_name(values: list[bytes | None]) -> dict[bytes, bytes | None]:
    """What `reported` has returned, by the names of the settings."""
    return dict(zip(_REPORTED, values, strict=False))


class Touch:
    """Whether somebody may have changed the connection object since its loan began.

    Its autocommit mode, which each transaction of Django's switches there and back, has a note of
    its own: whether it is another than at birth.
    """

    __slots__ = ("autocommit", "switched", "touched")

    def __init__(self) -> None:
        self.touched = True
        self.switched = False
        self.autocommit: Any = None  # at birth


class _NoticingAdapters(AdaptersMap):
    """A connection's adapters that notice whoever registers some."""

    def __init__(self, template: AdaptersMap, touch: Touch) -> None:
        super().__init__(template)
        self.types = _NoticingTypes(template.types, touch)
        self._touch = touch

    def register_dumper(self, *args: Any, **kwargs: Any) -> None:
        self._touch.touched = True
        super().register_dumper(*args, **kwargs)

    def register_loader(self, *args: Any, **kwargs: Any) -> None:
        self._touch.touched = True
        super().register_loader(*args, **kwargs)


class _NoticingTypes(TypesRegistry):
    def __init__(self, template: TypesRegistry, touch: Touch) -> None:
        super().__init__(template)
        self._touch = touch

    def add(self, *args: Any, **kwargs: Any) -> None:
        self._touch.touched = True
        super().add(*args, **kwargs)

    def clear(self) -> None:
        self._touch.touched = True
        super().clear()


_MODE = ("autocommit", AUTOCOMMIT)  # psycopg's property, and where it keeps it

_UNKNOWN = object()

_TOUCHING = (
    "__delattr__",
    "add_notice_handler",
    "remove_notice_handler",
    "add_notify_handler",
    "remove_notify_handler",
)


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    def touch(self: Any, *args: Any) -> None:
        self._touch.touched = True
        method(self, *args)

    return touch


def _noting_attributes(setattr_: Callable[..., Any]) -> Callable[..., Any]:
    def touch(self: Any, name: str, value: Any) -> None:
        noted = self._touch
        if name not in _MODE:
            noted.touched = True
            setattr_(self, name, value)
        elif value == noted.autocommit:
            setattr_(self, name, value)
            noted.switched = False
        else:
            noted.switched = True
            setattr_(self, name, value)

    return touch


@lru_cache(maxsize=64)
def _noticing(connection_class: Any) -> Any:
    """The class, extended so that it notices; itself when it is.

    It has no base but the class, and adds methods only: so an object can change over to it.
    """
    if getattr(connection_class, "connpool_notices", False):
        return connection_class
    members: dict[str, Any] = {name: _noting(getattr(connection_class, name)) for name in _TOUCHING}
    members["__setattr__"] = _noting_attributes(connection_class.__setattr__)
    members["connpool_notices"] = True
    members["_touch"] = Touch()  # while it is being made
    for name in ("__module__", "__qualname__", "__doc__"):
        members[name] = getattr(connection_class, name)
    return type(connection_class.__name__, (connection_class,), members)


def noticing(connection_class: Any) -> Any:
    """What to connect with instead of a class: with the class that its objects become anyway.

    Objects made of it are faster than those that change over: from Python 3.13 on that
    makes each look at an attribute slower.
    """
    made: Any = connection_class
    if is_class(made) and issubclass(made, Connection):
        with suppress(TypeError):  # it does not let itself be extended
            return _noticing(connection_class)
    return made


class Original:
    """What a connection object was like when nobody had borrowed it yet.

    `touch` tells from now on whether it may differ. It stays set where that cannot be
    noticed: a class that does not let itself be extended, or a driver of another kind.
    """

    __slots__ = ("_adapters", "_attributes", "_noticed", "_preparing", "reported", "touch", "zone")

    def __init__(self, conn: Any, listens: bool) -> None:
        # The time zone that its cursors are known to give times in; here for who asks each time.
        self.zone: Any = _UNKNOWN
        self.touch = Touch()
        conn = behind(conn)
        known = isinstance(conn, Connection)
        # Notifications gather by themselves in a session that listens from its birth.
        self._noticed = known and self._notice(conn) and not listens
        self._attributes = {name: _copy(value) for name, value in vars(conn).items()}
        self._attributes[POOL] = None
        self._attributes.pop(SIGN, None)
        self._adapters = AdaptersMap(conn.adapters) if known else None
        self._preparing = _preparing_of(conn) if known else ()
        self.reported = reported(conn.pgconn) if known else []
        self.touch.autocommit = self._attributes.get(AUTOCOMMIT)
        self.loan_begins()

    def _notice(self, conn: Any) -> bool:
        noticed = False
        with suppress(TypeError):
            noticing = _noticing(conn.__class__)
            if conn.__class__ is not noticing:
                conn.__class__ = noticing
            noticed = True
        vars(conn)["_touch"] = self.touch
        vars(conn)[ADAPTERS] = _NoticingAdapters(conn.adapters, self.touch)
        return noticed

    def again(self, conn: Any, listens: bool) -> Original:
        """What the object is like by now, but for the autocommit mode of its present loan."""
        later = Original(conn, listens)
        later._attributes[AUTOCOMMIT] = at_birth = self._attributes[AUTOCOMMIT]
        later.touch.autocommit = at_birth
        later.touch.switched = vars(behind(conn)).get(AUTOCOMMIT) != at_birth
        later.touch.touched = True
        return later

    def loan_begins(self) -> None:
        """The object is as it was: begin to notice."""
        self.touch.touched = not self._noticed
        self.touch.switched = False

    def differs(self, conn: Any, *but: str) -> bool:
        """Whether the connection object is not as it was, but for some attributes."""
        conn = behind(conn)
        now = conn.__dict__
        passing = {name: now[name] for name in (*_PASSING, *but) if name in now}
        if now != {**self._attributes, **passing}:
            return True
        if self._adapters is None:
            return False
        return bool(
            _preparing_of(conn) != self._preparing
            or registered(conn.adapters) != registered(self._adapters)
        )

    def restore(self, conn: Any) -> None:
        """Put the connection object back to what it was; it must not be in a transaction."""
        conn = behind(conn)
        now = vars(conn)
        for name in now.keys() - self._attributes.keys() - {SIGN}:
            del now[name]
        for name, value in self._attributes.items():
            if name != DERIVED and (name not in now or now[name] != value):
                now[name] = _copy(value)
                if DERIVED in self._attributes:
                    now[DERIVED] = self._attributes[DERIVED]
        if self._adapters is not None:
            self._restore_inner(conn, self._adapters)

    def _restore_inner(self, conn: Any, adapters: AdaptersMap) -> None:
        for name, value in zip(_OF_PREPARING, self._preparing, strict=True):
            setattr(conn, name, value)
        if registered(conn.adapters) != registered(adapters):
            fresh = _NoticingAdapters(adapters, self.touch)
            vars(conn)[ADAPTERS] = self._attributes[ADAPTERS] = fresh


def _preparing_of(conn: Any) -> tuple[Any, ...]:
    return tuple(getattr(conn, name) for name in _OF_PREPARING)


def _copy(value: Any) -> Any:
    """A collection of its own, so that what is appended to the connection's is noticed."""
    return type(value)(value) if isinstance(value, (list, dict, set, deque)) else value
