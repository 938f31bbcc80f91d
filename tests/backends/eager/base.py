"""A wrapper of another package that sets its sessions up before it hands them over, pooled."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class EagerDatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        with connection.cursor() as cursor:
            cursor.execute("SET work_mem = '9MB'")
        connection.commit()
        return connection


class DatabaseWrapper(PooledDatabaseWrapperMixin, EagerDatabaseWrapper):
    pass
