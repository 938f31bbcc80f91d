"""Migrations that bring new types: connections opened before do not know them."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

from django_connpool.errors import PoolClosed

_NEW_TYPES = re.compile(r"\b(?:create|alter|drop)\s+(?:extension|type|domain)\b", re.IGNORECASE)


class PooledSchemaEditorMixin:
    """Has a pool's connections replaced once an extension or a type is there.

    Django registers an extension's types (hstore, citext) on the connection that created it
    and on each that is opened later. Without a pool that is enough. So do receivers of
    `connection_created` with types of their own.
    """

    connection: Any

    def execute(self, sql: Any, params: Any = ()) -> Any:
        result = super().execute(sql, params)  # type: ignore[misc]
        if _NEW_TYPES.search(str(sql)):
            if self.connection.in_atomic_block:
                self.connection.on_commit(self._replace_connections)
            else:
                self._replace_connections()
        return result

    def _replace_connections(self) -> None:
        _forget_oids()
        pool = self.connection.pool
        if pool is not None:
            with suppress(PoolClosed):  # then there is nothing left to replace
                pool.drain()


def _forget_oids() -> None:
    """Have django.contrib.postgres look anew which types there are, as its own operations do."""
    if (signals := sys.modules.get("django.contrib.postgres.signals")) is not None:
        signals.get_hstore_oids.cache_clear()
        signals.get_citext_oids.cache_clear()


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
