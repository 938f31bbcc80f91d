"""Whether Django's own ways to a cursor are in their place, so that calls can be saved.

They are replaced at run time by packages that connect again, and by Django's tests to forbid
connecting; and classes of other packages may have ways of their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import FunctionType
from typing import Any

import django
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import TIMESTAMPTZ_OID, DatabaseWrapper
from psycopg.pq import Format

CONNECTING = frozenset({"_cursor", "close_if_health_check_failed", "ensure_connection"})

_DJANGO = f"{Path(django.__file__).parent}{os.sep}"


def as_django_has_it(name: str) -> Any:
    """A method of Django's; None when somebody has put another in its place already."""
    found: Any = getattr(BaseDatabaseWrapper, name)
    own = type(found) is FunctionType and found.__code__.co_filename.startswith(_DJANGO)
    return found if own else None


ENSURE: Any = as_django_has_it("ensure_connection")
CURSOR: Any = as_django_has_it("_cursor")

_CREATING = {
    *("connection", "cursor", "autocommit", "adapters", "get_loader", "timezone"),
    *("TIMESTAMPTZ_OID", "Format", "TEXT", "is_psycopg3", "register_tzloader"),
    *("settings", "USE_TZ", "tzinfo_factory"),
}
_FOR_NAMES = {"ServerSideCursor", "get", "settings_dict"}  # from Django 5.0 on


def _as_it_is_known(method: Any) -> Any:
    """The `create_cursor` of Django's, if all it does is what `Querying` knows.

    That is to have psycopg make one, and to give it a time zone if the connection has another.
    """
    inner = getattr(method, "__wrapped__", method)
    names = set(getattr(getattr(inner, "__code__", None), "co_names", ()))
    return method if names - _FOR_NAMES == _CREATING else None


CREATE: Any = _as_it_is_known(DatabaseWrapper.create_cursor)


def creates(above: Any) -> bool:
    """Whether what comes after a class, as its `super()`, creates cursors as Django does."""
    return CREATE is not None and getattr(above, "create_cursor", None) is CREATE


def creates_still() -> bool:
    """Whether nobody has put another method in the place of Django's since."""
    return DatabaseWrapper.create_cursor is CREATE


def zone_of(connection: Any) -> Any:
    """The time zone in which a connection gives times."""
    return connection.adapters.get_loader(TIMESTAMPTZ_OID, Format.TEXT).timezone
