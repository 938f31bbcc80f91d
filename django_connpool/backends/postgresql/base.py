"""The pooled PostgreSQL backend: `ENGINE = "django_connpool.backends.postgresql"`."""

from __future__ import annotations

from django.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    pass
