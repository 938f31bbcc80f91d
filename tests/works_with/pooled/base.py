"""Pooling by the mixin, over an engine of another package's that does nothing of its own."""

from __future__ import annotations

from django.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class TheirDatabaseWrapper(base.DatabaseWrapper):
    pass


class DatabaseWrapper(PooledDatabaseWrapperMixin, TheirDatabaseWrapper):
    pass
