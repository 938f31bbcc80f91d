"""The wrapper of django-prometheus, pooled as docs/behaviour.md says."""

from __future__ import annotations

from django_prometheus.db.backends.postgresql import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    pass
