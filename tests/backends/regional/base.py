"""A wrapper of another package, which connects as a setting of its own says."""

from __future__ import annotations

from django.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class RegionalDatabaseWrapper(base.DatabaseWrapper):
    def init_connection_state(self) -> None:
        super().init_connection_state()
        with self.connection.cursor() as cursor:
            region = self.settings_dict["REGION"]
            cursor.execute("SELECT set_config('connpool.region', %s, false)", [region])


class DatabaseWrapper(PooledDatabaseWrapperMixin, RegionalDatabaseWrapper):
    pass
