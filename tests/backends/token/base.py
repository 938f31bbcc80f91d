"""A wrapper of another package, which asks for a new token at each connect, and its pooled twin."""

from __future__ import annotations

import itertools
from typing import Any

from django.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin

tokens = itertools.count(1)


class TokenDatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        return {**params, "application_name": f"{params['application_name']}-{next(tokens)}"}

    def init_connection_state(self) -> None:
        super().init_connection_state()
        with self.connection.cursor() as cursor:
            cursor.execute("SET search_path TO pg_catalog")


class DatabaseWrapper(PooledDatabaseWrapperMixin, TokenDatabaseWrapper):
    pass
