"""Django's own look at the connection, to write a statement down, keeps nobody waiting."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def pooled(ops_class: Any) -> Any:
    """The class of a wrapper's `ops`, with a `compose_sql` that leaves no trace.

    Django makes a cursor there and reads its `connection`: with `DEBUG` after each statement in
    4.2, and later where parameters are bound by the server. Who reads that may keep the connection,
    so it would stay in hand; and references are counted, which other threads have for a moment.
    """
    if not hasattr(ops_class, "compose_sql"):
        return ops_class

    class DatabaseOperations(ops_class):  # type: ignore[misc]
        def compose_sql(self, sql: Any, params: Any) -> Any:
            wrapper = self.connection
            by_hand = wrapper.by_hand
            try:
                return super().compose_sql(sql, params)
            finally:
                wrapper.by_hand = by_hand  # that was Django
                if not by_hand:
                    wrapper.release_after_use()

    DatabaseOperations.__module__ = ops_class.__module__
    DatabaseOperations.__qualname__ = ops_class.__qualname__
    return DatabaseOperations
