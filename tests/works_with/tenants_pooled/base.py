"""Pooling by the mixin, over the engine of django-tenants."""

from __future__ import annotations

from django_tenants.postgresql_backend import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    pass
