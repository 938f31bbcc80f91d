"""The cursor that stands for whichever connection the next statement is run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from psycopg import InterfaceError

from . import loans
from .recall import at_hand


def _remembered(name: str) -> Any:
    """An attribute of the present cursor; what is set on it, is set on the next one as well."""

    def get(self: EarlyCursor) -> Any:
        return getattr(self._cursor, name)

    def put(self: EarlyCursor, value: Any) -> None:
        setattr(self._cursor, name, value)
        self._set = {**self._set, name: value}

    return property(get, put)


class EarlyCursor:
    """Stands for a psycopg cursor, whichever connection the next statement is run on."""

    _closed = False
    _set: Mapping[str, Any] = MappingProxyType({})

    arraysize = _remembered("arraysize")
    format = _remembered("format")
    itersize = _remembered("itersize")
    row_factory = _remembered("row_factory")

    def __init__(self, wrapper: Any, cursor: Any, name: str | None) -> None:
        self._wrapper = wrapper
        self._cursor = cursor
        # What was lent; an agent may have put a proxy before what the cursor knows.
        self._lent = wrapper.connection
        # Of its connection, which may have been lent to others and come back.
        self._loan = loans.epoch(self._lent)
        self._name = name

    def _present(self) -> Any:
        """The psycopg cursor to use now, on a connection that is at hand."""
        if self._closed:
            raise InterfaceError("the cursor is closed")
        wrapper = self._wrapper
        connection = None if wrapper.is_between else wrapper.connection
        if connection is None:
            wrapper.connect_for_a_statement()
            connection = wrapper.connection
        cursor = self._cursor
        if self._lent is not connection or self._loan != loans.epoch(connection):
            cursor = wrapper.plain_cursor(self._name)
            for name, value in self._set.items():
                setattr(cursor, name, value)
            self._cursor, self._lent = cursor, connection
            self._loan = loans.epoch(connection)
        return cursor

    def execute(self, *args: Any, **kwargs: Any) -> EarlyCursor:
        cursor, wrapper = self._cursor, self._wrapper
        connection = self._lent
        if (
            wrapper.is_between
            or connection is not wrapper.connection
            or self._closed
            or self._loan != loans.epoch(connection)
        ):
            cursor = self._present()
        try:
            cursor.execute(*args, **kwargs)
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
            self._lent = None
            wrapper = self._wrapper
            try:
                self._cursor.close()
            finally:
                if at_hand(wrapper) is not None:
                    wrapper.release_after_use()

    @property
    def connection(self) -> Any:
        return self._present().connection

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

    def __enter__(self) -> EarlyCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __repr__(self) -> str:
        return repr(self._cursor)
