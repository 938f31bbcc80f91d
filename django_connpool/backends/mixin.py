"""The name by which engines of users and of other packages import the pooled wrapper."""

from __future__ import annotations

from .wrapper import PooledDatabaseWrapperMixin

__all__ = ["PooledDatabaseWrapperMixin"]
