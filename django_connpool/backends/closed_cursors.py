"""Cursors that let go of their connection when they are closed.

A closed cursor stays in the variable of its `with` statement, and psycopg's keeps a reference
to its connection. In a loop that goes on for ever that would count as somebody who uses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django_connpool.session.foreign import is_class
from django_connpool.session.private import let_go


@lru_cache
def letting_go(cursor_class: Any) -> Any:
    """A subclass that, closed, refers to its connection weakly."""
    if not is_class(cursor_class):
        return cursor_class

    def close(cursor: Any) -> None:
        was_closed = cursor.closed
        cursor_class.close(cursor)
        if not was_closed:
            let_go(cursor)

    return type(cursor_class.__name__, (cursor_class,), {"close": close})
