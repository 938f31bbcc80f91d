"""Which wrappers hold something, by thread: so that nobody has to look at all aliases.

A wrapper is noted here, in the thread it was made in, before it holds a connection, and may stay
noted when it has nothing any more: who looks asks it.
"""

from __future__ import annotations

from threading import get_ident, local
from typing import Any
from weakref import WeakValueDictionary, ref

_of_threads: WeakValueDictionary[int, set[ref[Any]]] = WeakValueDictionary()  # by identity


class _Present(local):
    def __init__(self) -> None:
        self.noted: set[ref[Any]] = set()
        _of_threads[get_ident()] = self.noted


_present = _Present()


def of_this_thread() -> set[ref[Any]]:
    """The notes of this thread, where its wrappers put themselves and take themselves out."""
    return _present.noted


def here() -> list[Any]:
    """The wrappers that may hold something in this thread."""
    noted = _present.noted
    return _alive(noted) if noted else []


def anywhere() -> list[Any]:
    """The same of all threads."""
    # A list made at once, while other threads begin and end.
    found = [reference() for reference in _of_threads.valuerefs()]
    return [one for noted in found if noted for one in _alive(noted)]


def _alive(noted: set[ref[Any]]) -> list[Any]:
    return [wrapper for found in list(noted) if (wrapper := found()) is not None]
