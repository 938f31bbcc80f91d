"""How a wrapper makes a cursor, with no call more than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from . import djangos, loans
from .cursors import rebinding
from .work import Working


class Querying(Working):
    """Makes cursors that go by what is in the wrapper's hand: see `Rebinding`."""

    def _cursor(self, name: str | None = None) -> Any:
        if self.errors_occurred:
            self.close_if_health_check_failed()
        if self.in_hand is None and (self.offer is None or not self._take_up()):
            self.connect_for_a_statement()
        if (
            not self.connects_as_django
            or BaseDatabaseWrapper.ensure_connection is not djangos.ENSURE
            or BaseDatabaseWrapper._cursor is not djangos.CURSOR  # type: ignore[attr-defined]
            or getattr(self.in_hand, "_pool", None) is None
        ):
            by_hand = self.by_hand
            cursor = super()._cursor(name)  # type: ignore[misc]
            self.by_hand = by_hand  # that was Django
            return cursor
        # What Django's own does when it finds that there is a connection, and no error so far.
        try:
            if name is None and self.creates_as_django and djangos.creates_still():
                cursor = self._create_quickly(self.in_hand)
            else:
                cursor = self.create_cursor(name)
            return self._prepare_cursor(cursor)  # type: ignore[attr-defined]
        except self.Database.Error:
            with self.wrap_database_errors:
                raise

    def _create_quickly(self, connection: Any) -> Any:
        """A cursor without a name. Django looks at each whether its connection has the time zone.

        Here that is known, as long as nobody has changed the connection object.
        """
        original = loans.original(connection)
        zone = self.timezone
        if original.zone is zone and not original.touch.touched:
            return rebinding(self, connection.cursor(), None)
        cursor = self.create_cursor()
        if not original.touch.touched and djangos.zone_of(connection) == zone:
            original.zone = zone
        return cursor

    def create_cursor(self, name: str | None = None) -> Any:
        before = self.by_hand, self.has_deferred
        self.has_deferred = False
        cursor = super().create_cursor(name)
        self.by_hand, self.has_deferred = before  # that was Django
        is_lent = getattr(self.in_hand, "_pool", None) is not None
        return rebinding(self, cursor, name) if is_lent else cursor

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        if self.in_hand is not None or self.resumes is not None:  # Django would read `connection`
            with self.cursor() as cursor:
                yield cursor
        else:
            with super().temporary_connection() as cursor:
                yield cursor
