"""Migrations that bring new types: connections opened before do not know them."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any

from django_connpool.pool import PoolClosed


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


@lru_cache
def pooled(editor_class: type) -> type:
    """The schema editor class of a backend, replacing connections where it must."""
    return type(editor_class.__name__, (PooledSchemaEditorMixin, editor_class), {})
