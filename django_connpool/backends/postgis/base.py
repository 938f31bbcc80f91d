"""The pooled PostGIS backend: `ENGINE = "django_connpool.backends.postgis"`."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import base

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    pass
