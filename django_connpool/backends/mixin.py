"""The name by which engines import the pooled wrapper, those of users and other packages too."""

from __future__ import annotations

from django_connpool import checks

from .wrapper import PooledDatabaseWrapperMixin

__all__ = ["PooledDatabaseWrapperMixin"]

checks.register()  # for a project that has the ENGINE only: they say what is missing
