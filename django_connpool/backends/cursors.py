"""The front before a wrapper's cursors, which run each statement on the connection then in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from psycopg import ClientCursor, Cursor, InterfaceError, ServerCursor
from psycopg.errors import FeatureNotSupported

from django_connpool.session import cursors as session_cursors
from django_connpool.session import plans
from django_connpool.session.foreign import BaseCursor, behind
from django_connpool.session.fronts import Watched, drop_connection, take_over, with_front

_PSYCOPGS = {*dir(ClientCursor), *dir(Cursor), *dir(ServerCursor)}  # what its cursors have
# Of these, what a class of the user's may run statements of its own in.
_OVERRIDDEN = {"execute", "executemany", "fetchone", "fetchmany", "fetchall"}


class Rebinding:
    """In front of a psycopg cursor class: takes a connection in hand, and offers it afterwards.

    Only where a wrapper has made the cursor. Who makes one by hand has the connection, too.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    _connpool_wrapper: Any  # None where somebody has made it by hand
    _connpool_turn: int  # the wrapper's, when the cursor was made for what was then in hand
    _connpool_name: str | None

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        wrapper = self._connpool_wrapper
        if wrapper is None:
            return super().execute(query, params, **kwargs)  # type: ignore[misc]
        if wrapper.in_hand is None or self._connpool_turn != wrapper.turn:
            self._rebind(wrapper)
        if wrapper.at_savepoint is not None and wrapper.at_savepoint(query, self):
            return self
        try:
            if kwargs:
                return super().execute(query, params, **kwargs)  # type: ignore[misc]
            return super().execute(query, params)  # type: ignore[misc]
        except FeatureNotSupported as error:
            if not plans.may_be_sent_again(error, wrapper.in_hand):
                raise
            return super().execute(query, params, **kwargs)  # type: ignore[misc]
        finally:
            wrapper.end_statement()

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        with self._in_hand("executemany()"):
            super().executemany(*args, **kwargs)  # type: ignore[misc]

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._in_hand("a stream"):
            yield from super().stream(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._in_hand("a copy"), super().copy(*args, **kwargs) as copy:  # type: ignore[misc]
            yield copy

    def close(self) -> None:
        wrapper = self._connpool_wrapper
        try:
            super().close()  # type: ignore[misc]
        finally:
            if wrapper is not None and wrapper.in_hand is not None:
                if wrapper.by_hand and not wrapper.in_atomic_block:
                    drop_connection(self)  # so that what refers to it can be counted
                wrapper.release_after_use()

    @property
    def connection(self) -> Any:
        """For others, who may keep it. psycopg asks, too, in the middle of a statement."""
        connection: Any = super().connection  # type: ignore[misc]
        wrapper = self._connpool_wrapper
        if wrapper is None or (wrapper.in_hand is not None and connection.lock.locked()):
            return connection
        if wrapper.in_hand is None and not self.closed:  # type: ignore[attr-defined]
            wrapper.connect_for_a_statement()
        return wrapper.connection  # of which this is a cursor when it runs its next statement

    @contextmanager
    def _in_hand(self, why: str) -> Iterator[None]:
        wrapper = self._connpool_wrapper
        with nullcontext() if wrapper is None else wrapper.keeping(why):
            if wrapper is not None:
                self._rebind(wrapper)
            yield

    def _rebind(self, wrapper: Any) -> None:
        """Have a connection in hand, and be a cursor of its."""
        if self.closed:  # type: ignore[attr-defined]
            raise InterfaceError("the cursor is closed")
        if wrapper.in_hand is None:
            wrapper.connect_for_a_statement()
        if self._connpool_turn != wrapper.turn:
            take_over(self, behind(wrapper.create_cursor(self._connpool_name), BaseCursor))
            self._connpool_turn = wrapper.turn


@lru_cache(maxsize=64)
def _in_front_of(cursor_class: Any) -> Any:
    """The class with this front. What methods of its own do, they do with a connection in hand."""
    front = with_front(Rebinding, cursor_class)
    if front is not cursor_class:
        if not issubclass(cursor_class, Watched):
            front._connpool_wrapper = None
        for name in dir(cursor_class):
            owner = next(base for base in cursor_class.__mro__ if name in vars(base))
            if (
                not name.startswith("_")
                and callable(getattr(cursor_class, name))
                and (name not in _PSYCOPGS or name in _OVERRIDDEN)
                and owner.__module__.partition(".")[0] not in ("psycopg", "django_connpool")
            ):
                setattr(front, name, _with_connection(front, name))
    return front


def _with_connection(front: Any, name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._in_hand(f"{name}()"):
            return getattr(super(front, self), name)(*args, **kwargs)

    return call


def be_ready(connection: Any) -> None:
    """Have a new connection make such cursors at once, which costs less than `rebinding`."""
    connection.cursor_factory = _in_front_of(connection.cursor_factory)


def rebinding(wrapper: Any, cursor: Any, name: str | None) -> Any:
    """Have a cursor, which Django has just made by that name, go by what is in the wrapper's hand.

    Where that is not possible, what it was made for stays in hand as long as the cursor is there.
    """
    found = cursor
    if not issubclass(type(found), Rebinding):
        found = behind(cursor, BaseCursor)
        if name:  # Django makes named cursors of a class of its own, past the connection's
            session_cursors.watch_cursor(found)
        try:
            found.__class__ = _in_front_of(cast(Any, type(found)))
        except TypeError:
            wrapper.by_hand = True
            return cursor
    found._connpool_wrapper, found._connpool_turn, found._connpool_name = (
        wrapper,
        wrapper.turn,
        name,
    )
    return cursor
