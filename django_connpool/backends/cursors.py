"""The cursor that stands for whichever connection the next statement is run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from psycopg import ClientCursor, Cursor, InterfaceError, ServerCursor

# What psycopg's own cursors have. What runs statements is below; the rest needs no connection.
_PSYCOPGS = frozenset({*dir(ClientCursor), *dir(Cursor), *dir(ServerCursor)})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _remembered(name: str) -> Any:
    """An attribute of the present cursor; what is set on it, is set on the next one as well."""

    def get(self: RebindingCursor) -> Any:
        return getattr(self._cursor, name)

    def put(self: RebindingCursor, value: Any) -> None:
        setattr(self._cursor, name, value)
        self._set = {**self._set, name: value}

    return property(get, put)


class RebindingCursor:
    """Stands for a psycopg cursor, whichever connection the next statement is run on."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_closed",
        "_cursor",
        "_name",
        "_set",
        "_turn",
        "_wrapper",
    )

    arraysize = _remembered("arraysize")
    format = _remembered("format")
    itersize = _remembered("itersize")
    row_factory = _remembered("row_factory")

    def __init__(self, wrapper: Any, cursor: Any, name: str | None) -> None:
        self._wrapper = wrapper
        self._cursor = cursor
        self._turn = wrapper.turn  # the wrapper's, when the cursor was made
        self._name = name
        self._closed = False
        self._set: Mapping[str, Any] = _NOTHING

    def _present(self) -> Any:
        """The psycopg cursor to use now, on a connection that is in hand."""
        if self._closed:
            raise InterfaceError("the cursor is closed")
        wrapper = self._wrapper
        if wrapper.in_hand is None:
            wrapper.connect_for_a_statement()
        if self._turn != wrapper.turn:
            cursor = wrapper.plain_cursor(self._name)
            for name, value in self._set.items():
                setattr(cursor, name, value)
            self._cursor, self._turn = cursor, wrapper.turn
        return self._cursor

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> RebindingCursor:
        wrapper = self._wrapper
        if wrapper.in_hand is None or self._turn != wrapper.turn or self._closed:
            self._present()
        try:
            self._cursor.execute(query, params, **kwargs)
        finally:
            wrapper.release_if_free()
        return self

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        cursor = self._present()
        try:
            cursor.executemany(*args, **kwargs)
        finally:
            self._wrapper.release_if_free()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._wrapper.keeping("a stream"):
            yield from self._present().stream(*args, **kwargs)

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._wrapper.keeping("a copy"), self._present().copy(*args, **kwargs) as copy:
            yield copy

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            wrapper = self._wrapper
            try:
                self._cursor.close()
            finally:
                if wrapper.in_hand is not None:
                    if wrapper.by_hand and not wrapper.in_atomic_block:
                        # So that what refers to the connection can be counted.
                        self._cursor = _Closed()
                    wrapper.release_after_use()

    @property
    def connection(self) -> Any:
        self._present()
        return self._wrapper.connection

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For isinstance(): that of the present cursor."""
        return self._cursor.__class__

    @property
    def closed(self) -> bool:
        return self._closed

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        return self._cursor.fetchmany(*args, **kwargs)

    def fetchall(self) -> Any:
        return self._cursor.fetchall()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __next__(self) -> Any:
        return next(self._cursor)

    def __enter__(self) -> RebindingCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cursor, name)
        # A method of Django's or of the user's class of cursors may run statements.
        if name in _PSYCOPGS or name.startswith("_") or not callable(found):
            return found
        return partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        cursor = self._present()
        try:
            return getattr(cursor, name)(*args, **kwargs)
        finally:
            self._wrapper.release_if_free()

    def __repr__(self) -> str:
        return repr(self._cursor)


class _Closed:
    """Stands for a closed cursor of psycopg's that would keep its connection from going back."""

    closed = True
    description = None
    rowcount = -1
    rownumber = None
    statusmessage = None
    _query = None  # for Django, which looks what it was

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise InterfaceError("the cursor is closed")
