"""What a session is born with, recorded so that cleaning it can do that again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import changes, private
from .fronts import Recorded, with_front
from .statements import ANYTHING, HELD


@contextmanager
def recording(conn: Any) -> Iterator[None]:
    """What is set in this block belongs to the session as it is born: remember how.

    A session that is cleaned has it done again. When it cannot be repeated the session
    cannot be cleaned either.
    """
    found = changes.of(conn)
    if found is None:
        yield
        return
    plain, conn.cursor_factory = conn.cursor_factory, with_front(Recorded, conn.cursor_factory)
    chosen = conn.cursor_factory
    found.records, found.recorded = True, 0
    try:
        with private.telling_of_rollbacks(conn, found.take_back):
            yield
    finally:
        found.records = False
        if found.dirt & ~found.recorded & ~HELD and not found.is_blind:
            found.setup = None  # by a cursor of another kind
        if conn.cursor_factory is chosen:
            conn.cursor_factory = plain
        found.last, found.called = None, False
        found.forget()


@contextmanager
def repeating(conn: Any) -> Iterator[None]:
    """What is done in this block changes nothing where it was done at the session's birth, too."""
    found = changes.of(conn)
    before = None if found is None else found.setup
    if found is None or before is None:
        yield
        return
    dirt, kept = found.dirt, found.kept
    found.setup = list(before)
    worst = ANYTHING
    try:
        with recording(conn):
            yield
        if found.setup is not None:
            worst = 0
            for kinds, text in found.setup[len(before) :]:
                if (kinds, text) not in before:
                    worst |= kinds
    finally:
        found.setup = before
        found.dirt, found.kept = dirt | worst, kept | worst
