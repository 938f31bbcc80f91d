"""Test databases: none of our pools may be connected to what is copied or dropped."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django_connpool import registry


class PooledDatabaseCreationMixin:
    """Closes the pools of a test database before it is cloned or destroyed.

    Django closes its own pool there, from 5.1 on, and only that of the alias at hand.
    """

    connection: Any

    def _create_test_db(self, *args: Any, **kwargs: Any) -> Any:
        self._close_pools(self._get_test_db_name())  # type: ignore[attr-defined]
        return super()._create_test_db(*args, **kwargs)  # type: ignore[misc]

    def _clone_test_db(self, *args: Any, **kwargs: Any) -> Any:
        self.connection.close()
        self._close_pools(self.connection.settings_dict["NAME"])
        return super()._clone_test_db(*args, **kwargs)  # type: ignore[misc]

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> Any:
        self._close_pools(test_database_name)
        return super()._destroy_test_db(test_database_name, verbosity)  # type: ignore[misc]

    def _close_pools(self, name: str) -> None:
        registry.close_database(self.connection.settings_dict, name)


@lru_cache
def pooled(creation_class: type) -> type:
    """The creation class of a backend, closing pools where it must."""
    if issubclass(creation_class, PooledDatabaseCreationMixin):
        return creation_class
    return type(creation_class.__name__, (PooledDatabaseCreationMixin, creation_class), {})
