"""Migrations that bring new types: connections opened before do not know them."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any

from django_connpool.errors import PoolClosed


class PooledSchemaEditorMixin:
    """Has a pool's connections replaced once an extension is there.

    Django registers an extension's types (hstore, citext) on the connection that created it
    and on each that is opened later. Without a pool that is enough.
    """

    connection: Any

    def execute(self, sql: Any, params: Any = ()) -> Any:
        result = super().execute(sql, params)  # type: ignore[misc]
        if str(sql).startswith("CREATE EXTENSION"):
            if self.connection.in_atomic_block:
                self.connection.on_commit(self._replace_connections)
            else:
                self._replace_connections()
        return result

    def _replace_connections(self) -> None:
        pool = self.connection.pool
        if pool is not None:
            with suppress(PoolClosed):  # then there is nothing left to replace
                pool.drain()


def pooled(editor: Any) -> Any:
    """The schema editor, replacing connections where it must.

    Of whatever class it was made: others put their own in the place of the backend's, before or
    after a wrapper was made, and derive them from what they have found there.
    """
    with suppress(TypeError):  # its class does not let itself be extended
        editor.__class__ = _pooled(editor.__class__)
    return editor


@lru_cache
def _pooled(editor_class: type) -> type:
    if issubclass(editor_class, PooledSchemaEditorMixin):
        return editor_class
    return type(editor_class.__name__, (PooledSchemaEditorMixin, editor_class), {})
