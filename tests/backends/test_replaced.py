"""What other packages put in the place of a backend's classes and methods, before or after us."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.schema import DatabaseSchemaEditor

from tests import inside
from tests.databases import Databases, value


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    return databases.add()


def made(wrapper: Any) -> Any:
    editor = wrapper.schema_editor()
    assert inside.is_pooled_editor(editor)
    return editor


class Theirs:
    """A mixin of theirs."""


@pytest.mark.parametrize("place", ["class", "instance"])
def test_what_is_put_there_later_is_used(
    place: str, wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(wrapper)
    of = type(wrapper) if place == "class" else wrapper
    patched = type("Patched", (Theirs, wrapper.SchemaEditorClass), {})
    monkeypatch.setattr(of, "SchemaEditorClass", patched, raising=False)
    assert isinstance(made(wrapper), patched)


def test_what_derives_from_ours_is_used(wrapper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = type("Derived", (type(made(wrapper)),), {})
    monkeypatch.setattr(type(wrapper), "SchemaEditorClass", derived)
    assert type(made(wrapper)) is derived


def test_what_is_found_on_the_class_is_as_the_backend_has_it(wrapper: Any) -> None:
    assert wrapper.SchemaEditorClass is type(wrapper).SchemaEditorClass is DatabaseSchemaEditor


def test_what_does_not_let_itself_be_extended_is_used(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Final(DatabaseSchemaEditor):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

    monkeypatch.setattr(type(wrapper), "SchemaEditorClass", Final)
    assert type(wrapper.schema_editor()) is Final


@pytest.mark.parametrize("name", ["_cursor", "ensure_connection"])
def test_what_is_put_over_a_method_of_djangos_is_called(
    name: str, wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    plain = getattr(BaseDatabaseWrapper, name)

    @wraps(plain)
    def traced(self: Any, *args: Any) -> Any:
        called.append(name)
        return plain(self, *args)

    assert inside.as_django_has_it(name) is plain
    monkeypatch.setattr(BaseDatabaseWrapper, name, traced)
    assert inside.as_django_has_it(name) is None
    assert value(wrapper, "SELECT 1") == 1
    assert called
