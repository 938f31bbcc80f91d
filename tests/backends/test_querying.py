"""A cursor is made in fewer calls than Django's, and is the same."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.db.backends.postgresql import base
from django.db.backends.signals import connection_created
from psycopg.adapt import Loader

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from django_connpool.backends.postgresql import base as pooled
from tests.databases import Databases, value
from tests.pool.real.helpers import until_known

NOW = "SELECT '2026-01-01 12:00+00'::timestamptz"
ENGINES = {
    "stock": "django.db.backends.postgresql",
    "ours": "django_connpool.backends.postgresql",
}


class Wrong(Loader):
    timezone = datetime.timezone.min

    def load(self, data: Any) -> str:
        return "in another time zone"


def listen(databases: Databases, kind: str, zone: str | None, listener: Any) -> Any:
    """A wrapper of either kind, whose connections begin with what the listener does."""
    wrapper = databases.add(kind, engine=ENGINES[kind], TIME_ZONE=zone)

    def hear(connection: Any, **kwargs: Any) -> None:
        if connection.alias == kind:
            listener(connection)

    connection_created.connect(hear)
    try:
        value(wrapper, "SELECT 1")
    finally:
        connection_created.disconnect(hear)
    return wrapper


def times(wrapper: Any) -> list[Any]:
    """As two cursors give them, of which the second knows what the first has found out."""
    return [value(wrapper, NOW), value(wrapper, NOW)]


@pytest.mark.parametrize("zone", ["Asia/Kolkata", None])
@pytest.mark.parametrize("by", ["a receiver", "hand", "nobody"])
def test_times_are_in_the_time_zone_of_the_wrapper(
    databases: Databases, settings: Any, by: str, zone: str | None
) -> None:
    settings.USE_TZ = zone is not None

    def register(connection: Any) -> None:
        connection.connection.adapters.register_loader("timestamptz", Wrong)

    found = []
    for kind in ("stock", "ours"):
        wrapper = listen(
            databases, kind, zone, register if by == "a receiver" else lambda connection: None
        )
        if by == "hand":
            times(wrapper)
            register(wrapper)
        found.append(times(wrapper))
        wrapper.close()
    assert found[0] == found[1]
    offset = None if zone is None else datetime.timedelta(hours=5, minutes=30)
    assert {one.utcoffset() for one in found[1]} == {offset}


def test_what_is_put_over_djangos_way_to_make_a_cursor_is_called(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    create = base.DatabaseWrapper.create_cursor
    made: list[Any] = []

    def counted(self: Any, name: str | None = None) -> Any:
        made.append(name)
        return create(self, name)

    until_known(wrapper.pool)
    times(wrapper)
    monkeypatch.setattr(base.DatabaseWrapper, "create_cursor", counted)
    value(wrapper, "SELECT 1")
    assert made == [None]


def test_so_is_that_of_another_packages_class(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Theirs(base.DatabaseWrapper):
        def create_cursor(self, name: str | None = None) -> Any:
            made.append(name)
            return super().create_cursor(name)

    class Below(PooledDatabaseWrapperMixin, Theirs):
        pass

    class Above(pooled.DatabaseWrapper):
        def create_cursor(self, name: str | None = None) -> Any:
            made.append(name)
            return super().create_cursor(name)

    for wrapper_class in (Below, Above):
        monkeypatch.setattr(pooled, "DatabaseWrapper", wrapper_class)
        wrapper = databases.add(wrapper_class.__name__, pool={"max_size": 1})
        value(wrapper, "SELECT 1")
        made.clear()
        assert value(wrapper, "SELECT 1") == value(wrapper, "SELECT 1")
        assert made == [None, None]
        wrapper.close()
