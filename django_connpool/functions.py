"""Functions on the server that give state to a session, where no statement shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .session import hidden


def hiding_state(cursor: Any, named: Iterable[str]) -> tuple[list[str], list[str]]:
    """Ask as a pool does: the functions that give state to the session, and what runs them.

    The functions with their schemas; then the names, without, of functions that call them and of
    relations that do so when they are read or written to. Those that are `named` count as such.
    """
    cursor.execute(hidden.query(cursor.connection.info.server_version).decode())
    found = hidden.find(cursor.fetchall(), named)
    if found is None:
        return [], []
    causes = sorted(found.causes)
    own = {cause.partition(".")[2].casefold() for cause in causes}
    return causes, sorted(found.names - own)
