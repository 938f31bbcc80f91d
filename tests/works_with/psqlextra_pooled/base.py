"""Pooling by the mixin, over the engine of django-postgres-extra."""

from __future__ import annotations

from psqlextra.backend import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    pass
