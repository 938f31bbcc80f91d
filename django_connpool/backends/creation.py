"""Test databases: none of our pools may be connected to what is copied or dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from django.db import DatabaseError

from django_connpool import registry
from django_connpool.pool import explain


class PooledDatabaseCreationMixin:
    """Closes the pools of a test database before it is cloned or destroyed.

    Django closes its own pool there, from 5.1 on, and only that of the alias at hand.
    """

    connection: Any

    def _create_test_db(self, *args: Any, **kwargs: Any) -> Any:
        with self._unused(self._get_test_db_name()):  # type: ignore[attr-defined]
            return super()._create_test_db(*args, **kwargs)  # type: ignore[misc]

    def _clone_test_db(self, *args: Any, **kwargs: Any) -> Any:
        self.connection.close()
        with self._unused(self.connection.settings_dict["NAME"]):
            return super()._clone_test_db(*args, **kwargs)  # type: ignore[misc]

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> Any:
        with self._unused(test_database_name):
            return super()._destroy_test_db(test_database_name, verbosity)  # type: ignore[misc]

    @contextmanager
    def _unused(self, name: str) -> Iterator[None]:
        """Do something to a database that nobody may use; say who does, when that fails."""
        bindings = registry.close_database(self.connection.settings_dict, name)
        for binding in bindings:
            binding.pool.take_offers()
        try:
            yield
        except DatabaseError as error:
            loans = [loan for each in bindings for loan in each.pool.snapshot()["loans"]]
            if not loans:
                raise
            raise type(error)(
                f"{error}\nConnections of this process to it are on loan to "
                f"{explain.holders(loans)}. End such threads, or have them call "
                "django_connpool.release(), before the tests end."
            ) from error


@lru_cache
def pooled(creation_class: type) -> type:
    """The creation class of a backend, closing pools where it must."""
    if issubclass(creation_class, PooledDatabaseCreationMixin):
        return creation_class
    return type(creation_class.__name__, (PooledDatabaseCreationMixin, creation_class), {})
