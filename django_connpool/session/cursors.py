"""Has the statements of a connection seen before they are sent.

psycopg lets a connection name the classes of its cursors. Ours are those classes with a front
(`watched`). Cursors that somebody makes by hand go past it, but not unseen: the connection itself
begins every statement, finds that it was not announced, and expects the worst (fronts.py).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from . import changes
from .changes import BlindChanges, Changes
from .foreign import Connection, ServerCursor, behind, is_class, is_psycopgs, say_once
from .fronts import Telling, Watched, WatchedNamed, WatchedPlain, is_plain, stand_before, with_front
from .statements import Judge

_UNSEEN = "%s has no _start_query: statements may go unseen, so every session is cleaned"
_HIDDEN = (
    "%s hides psycopg's connection, with no __wrapped__ to find it by: what it is used for "
    "goes unseen, so every connection is closed when it is given back"
)


def set_watch(conn: Any, judge: Judge) -> None:
    """See what is done from now on. Doing it again only sees to the classes of cursors."""
    conn = behind(conn)
    found = changes.of(conn)
    if not isinstance(conn, Connection):
        # A driver of another kind, such as a test's; else something that hides psycopg's.
        if is_psycopgs(conn) and found is None:
            conn._changes = BlindChanges(judge)
            conn._changes.setup = None  # so that it is closed after its first loan
            say_once(_HIDDEN, type(conn))
        return
    if found is None:
        found = conn._changes = _begin(conn, judge)
        if conn.__dict__.pop("_was_used", False):
            found.setup = None
    conn.cursor_factory = watched(conn.cursor_factory, quick=not found.is_blind)
    conn.server_cursor_factory = watched(conn.server_cursor_factory)


def _begin(conn: Any, judge: Judge) -> Changes:
    found = Changes(judge)
    if stand_before(conn, found):
        return found
    say_once(_UNSEEN, type(conn))
    return BlindChanges(judge)


def watched(cursor_class: Any, quick: bool = True) -> Any:
    """The cursor class with a front; itself when it has one, or is no class.

    `quick`: where it can be told, do what psycopg's own would in fewer calls.
    """
    if not is_class(cursor_class) or issubclass(cursor_class, Watched):
        return cursor_class
    if issubclass(cursor_class, ServerCursor):
        return with_front(WatchedNamed, cursor_class)
    plain = quick and is_plain(cursor_class)
    return with_front(WatchedPlain if plain else Watched, cursor_class)


def telling(cursor_class: Any) -> Any:
    """The cursor class, telling that it was used before its connection was watched.

    What was set that way cannot be repeated: such a session is not cleaned but replaced.
    """
    return with_front(Telling, cursor_class)


def watch_cursor(cursor: Any) -> Any:
    """Put a front before a cursor that was made by hand; return it."""
    found = changes.of(cursor.connection)
    if found is not None and not isinstance(cursor, Watched):
        with suppress(TypeError):  # its class forbids it: then its statements expect the worst
            cursor.__class__ = watched(cursor.__class__, quick=False)
            cursor._changes, cursor._loan = found, found.loan
    return cursor
