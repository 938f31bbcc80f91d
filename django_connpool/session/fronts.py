"""The fronts before psycopg's cursors and connections, which see each statement before it is sent.

They are made of psycopg's private names, as private.py is: every statement comes by here, so
there is no call in between.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from psycopg import Error, InterfaceError, OperationalError
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import DiagnosticField, Format

from . import plans, pooler, roles
from .changes import SANE, Changes
from .foreign import BaseCursor, Cursor, RawCursor, is_class
from .riding import rides, send_deferred
from .statements import Judge

_STALE = "the connection of this cursor has been given back to its pool"
# What stays when a cursor is made anew for another connection; and what is not a value.
_USERS = {"arraysize", "format", "itersize", "_row_factory", "__weakref__", "__dict__"}
_OURS = {"_changes", "_loan"}
# What is kept on a cursor, here and by `Rebinding`. In a dictionary of the cursor's it would have
# Python look there at each call of a method, psycopg's too, which was most of what a query cost.
_SLOTS = ("_changes", "_connpool_name", "_loan", "_connpool_turn", "_connpool_wrapper")
_judge = Judge()
TEXT = Format.TEXT


def _of(conn: Any) -> Changes:
    """What is known of a connection's session; where nobody looks, what will be thrown away."""
    return conn.__dict__.get("_changes") or Changes(_judge)


def _after_deferred(conn: Any, changes: Changes, started: Any) -> Generator[Any, Any, None]:
    """Send what has waited for a statement, and begin it."""
    yield from send_deferred(conn, changes)
    yield from started


class Watched:
    """In front of a psycopg cursor class. It stands aside where nobody looks.

    Every statement comes by here, so this calls as little as it can.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # see `with_front`

    _conn: Any
    _closed: bool
    _loan = -1
    _connpool_wrapper: Any = None  # which has made it: see `Rebinding`

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]
        self._loan = _of(connection).loan

    def _start_query(self, query: Any = None) -> Any:
        changes = self._conn.__dict__.get("_changes") or Changes(_judge)
        if changes.loan != self._loan and not self._closed:
            raise OperationalError(_STALE)
        changes.announced = not self._closed
        if query is not None:
            changes.last = query
            try:
                bits = changes.known[query]
            except (KeyError, TypeError):
                bits = changes.judge(query, self._conn)
            if bits or changes.dirt:
                changes.weigh(bits, self._conn)
        started = super()._start_query(query)  # type: ignore[misc]
        return _after_deferred(self._conn, changes, started) if changes.deferred else started

    def _check(self) -> Changes:
        """Return the changes; OperationalError when the loan is over that the cursor is of.

        Before anything else: from then on they are of another borrower's session.
        """
        changes = _of(self._conn)
        if changes.loan != self._loan and not self._closed:
            raise OperationalError(_STALE)
        return changes

    def _raise_for_result(self, result: Any) -> Any:
        # Where psycopg comes by with each error, and with nothing else.
        state = result.error_field(DiagnosticField.SQLSTATE)
        roles.note_error(self._conn, state)
        plans.note_error(self._conn, state, result)
        return super()._raise_for_result(result)  # type: ignore[misc]

    def _start_copy_gen(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._check().note(statement, self._conn)
        return super()._start_copy_gen(statement, *args, **kwargs)  # type: ignore[misc]


class WatchedPlain(Watched):
    """In front of a cursor class that is made and begins statements as psycopg's own does.

    What psycopg does in four calls and two generators is done here in one call each, so that
    being watched costs next to nothing. See `is_plain`.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    _adapters: Any
    _changes: Changes
    _pgconn: Any
    _sends_alone = False
    _reset: Callable[[], None]
    _last_query: Any

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        if _MAKES_ADAPTERS_LATER:
            self._conn = connection
            self._pgconn = connection.pgconn
            self._adapters = None  # those of the connection, until somebody asks for its own
            self.format = TEXT
            self.arraysize = 1
            self._closed = False
            self._last_query = None
            self._reset()
        else:
            _init(self, connection)
        self._row_factory = row_factory or connection.row_factory
        self._changes = changes = getattr(connection, "_changes", None) or Changes(_judge)
        self._loan = changes.loan
        self._connpool_wrapper = None

    def _start_query(self, query: Any = None) -> Any:
        if self._closed:
            raise InterfaceError("the cursor is closed")
        changes = self._changes
        if changes.loan != self._loan:
            raise OperationalError(_STALE)
        conn = self._conn
        if query is not None:
            changes.last = query
            try:
                bits = changes.known[query]
            except (KeyError, TypeError):
                bits = changes.judge(query, conn)
            if bits or changes.dirt:
                changes.weigh(bits, conn)
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(conn if self._adapters is None else self)  # type: ignore[arg-type]
        if conn._autocommit or (changes.rider is type(self) and rides(self, query, changes)):
            return ()
        started = conn.__class__._start_query(conn)
        return _after_deferred(conn, changes, started) if changes.deferred else started

    def stream(self, *args: Any, **kwargs: Any) -> Generator[Any, Any, None]:
        self._sends_alone = True
        try:
            yield from super().stream(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._sends_alone = False

    @property
    def adapters(self) -> Any:
        """Its own, a copy of the connection's. It costs microseconds, and hardly anybody asks."""
        if self._adapters is None:
            self._adapters = AdaptersMap(self._conn.adapters)
            changed = partial(BaseCursor._loaders_changed, weakref.ref(self))
            self._adapters._register_loader_callback = changed
            self._last_query = None  # so that the next statement goes by them
        return self._adapters


class WatchedNamed(Watched):
    """In front of a psycopg server-side cursor class."""

    _name: str
    withhold: bool

    def _make_declare_statement(self, query: Any) -> Any:
        # The query itself, not the DECLARE around it, which has a new name each time.
        self._check().note(query, self._conn)
        return super()._make_declare_statement(query)  # type: ignore[misc]

    def _start_query(self, query: Any = None) -> Any:
        changes = self._check()
        if changes.judge.shared and self.withhold:
            pooler.refuse_held()
        changes.cursor_opens(self._name)
        changes.announced = not self._closed
        started = super(Watched, self)._start_query(query)  # type: ignore[misc]
        return _after_deferred(self._conn, changes, started) if changes.deferred else started

    def _fetch_gen(self, num: Any) -> Any:
        self._check()
        return super()._fetch_gen(num)  # type: ignore[misc]

    def _scroll_gen(self, value: Any, mode: Any) -> Any:
        self._check()
        return super()._scroll_gen(value, mode)  # type: ignore[misc]

    def close(self) -> None:
        if _of(self._conn).loan != self._loan:
            # It may be collected in the middle of a statement of the next loan, by its thread:
            # psycopg would wait for the connection's lock, which this thread has.
            Cursor.close(self)
        else:
            super().close()  # type: ignore[misc]

    def _close_gen(self) -> Any:
        changes = _of(self._conn)
        if changes.loan != self._loan:  # cleaned away, and the session may be somebody else's
            return _no_statement()
        status = self._conn.pgconn.transaction_status
        if status in SANE:  # else psycopg leaves it open
            changes.cursor_closes(self._name)
        return super()._close_gen()  # type: ignore[misc]


class Telling:
    """In front of a cursor class: tells that a connection was used that is not watched yet."""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]
        if "_changes" not in connection.__dict__:
            connection.__dict__["_was_used"] = True


class Recorded:
    """In front of a watched cursor class, while a session is being born."""

    _conn: Any

    def _convert_query(self, query: Any, params: Any = None) -> Any:
        if params and isinstance(self, RawCursor):  # whose placeholders only the server replaces
            _of(self._conn).record_in_vain(query, self._conn)
        else:
            _of(self._conn).record(query, params, self._conn)
        return super()._convert_query(query, params)  # type: ignore[misc]

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        changes = _of(self._conn)
        recorded = len(changes.setup or ())
        try:
            return super().execute(query, *args, **kwargs)  # type: ignore[misc]
        except Error:
            changes.forget_failed(recorded, query, self._conn)
            raise

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _of(self._conn).record_in_vain(query, self._conn)
        return super().executemany(query, *args, **kwargs)  # type: ignore[misc]

    def _start_copy_gen(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        _of(self._conn).record_in_vain(statement, self._conn)
        return super()._start_copy_gen(statement, *args, **kwargs)  # type: ignore[misc]


def _no_statement() -> Generator[Any, Any, None]:
    """A generator as psycopg's connections run them, with nothing to send."""
    yield from ()


@lru_cache(maxsize=256)
def with_front(front: type, cursor_class: Any) -> Any:
    if not is_class(cursor_class):  # a function that makes cursors: theirs are not announced
        return cursor_class
    names = {"__module__": cursor_class.__module__, "__qualname__": cursor_class.__qualname__}
    if issubclass(front, WatchedPlain):
        names["__slots__"] = _SLOTS if cursor_class.__dictoffset__ else (*_SLOTS, "__dict__")
    return type(cursor_class.__name__, (front, cursor_class), names)


def take_over(cursor: Any, fresh: Any) -> None:
    """Make a cursor what another is that was just made for it; it keeps what its user has set."""
    for base in type(fresh).__mro__:
        if base.__module__.partition(".")[0] == "psycopg":
            for name in set(vars(base).get("__slots__", ())) - _USERS:
                if hasattr(fresh, name):
                    setattr(cursor, name, getattr(fresh, name))
    for name in _OURS:
        if hasattr(fresh, name):
            setattr(cursor, name, getattr(fresh, name))
    changed = getattr(cursor._adapters, "_register_loader_callback", None)  # of its own ones
    if isinstance(changed, partial):  # from psycopg 3.3 on: to be told of the cursor's own loaders
        told = partial(changed.func, weakref.ref(cursor))
        cursor._adapters._register_loader_callback = told
    fresh._closed = True  # or one with a name would warn as it goes


def drop_connection(cursor: Any) -> None:
    """Have a cursor that was closed refer to its connection no more."""
    if cursor._closed:
        cursor._conn = _NO_CONNECTION
        cursor._tx = cursor._query = None


class _NoConnection:
    """Stands for the connection of a closed cursor."""

    _pipeline = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InterfaceError("the cursor is closed")


_NO_CONNECTION = _NoConnection()


def stand_before(conn: Any, changes: Changes) -> bool:
    """Have a connection notice statements that no cursor has announced; False where it cannot."""
    can = callable(getattr(type(conn), "_start_query", None))
    if can:
        conn._start_query = _checking(conn, changes)
    return can


def _checking(conn: Any, changes: Changes) -> Callable[[], Any]:
    """What stands in for its `_start_query`. It must not keep the connection alive."""
    ref = weakref.ref(conn)
    begin = type(conn)._start_query

    def _start_query() -> Any:
        if changes.announced:
            changes.announced = False
        else:
            changes.expect_the_worst()
        this: Any = ref()
        if this.pgconn.pipeline_status and not this._pipeline:
            raise OperationalError(
                "a statement that was interrupted is still under way: close the connection"
            )
        # What psycopg's own does, which is a generator that costs more than all of this.
        return () if this._autocommit else begin(this)

    return _start_query


def looks_up(function: Any) -> set[str]:
    """The names that a function looks up; none when it is not one, but a proxy of an agent's."""
    return set(getattr(getattr(function, "__code__", None), "co_names", ()))


_INIT, _START = Cursor.__init__, BaseCursor._start_query
_init = BaseCursor.__init__
# What the two methods look up is what `WatchedPlain` does without them, from psycopg 3.2 to 3.3.
_PSYCOPG_IS_KNOWN = looks_up(_START) == {
    *("closed", "e", "InterfaceError", "_reset", "_last_query", "adapt", "Transformer", "_tx"),
    *("_conn", "_start_query"),
} and looks_up(_INIT) == {"super", "__init__", "row_factory", "_row_factory"}

# From psycopg 3.3 on, which tells a cursor of what is registered when its rows are here already.
_MAKES_ADAPTERS_LATER = looks_up(_init) == {
    *("_conn", "TEXT", "format", "pgconn", "_pgconn", "adapt", "AdaptersMap", "adapters"),
    *("_adapters", "arraysize", "_closed", "_last_query", "_reset", "partial", "_loaders_changed"),
    *("ref", "_register_loader_callback"),
}


def is_plain(cursor_class: Any, kind: Any = Cursor, init: Any = _INIT) -> bool:
    """Whether `WatchedPlain` does what this class would: it is psycopg's, as it is known.

    Asked for each connection, because an agent may replace a method at any time.
    """
    return (
        _PSYCOPG_IS_KNOWN
        and issubclass(cursor_class, kind)
        and cursor_class.__init__ is kind.__init__ is init
        and cursor_class._start_query is BaseCursor._start_query is _START
        and BaseCursor.__init__ is _init
        and cursor_class.adapters is BaseCursor.adapters
        and cursor_class.__mro__[cursor_class.__mro__.index(kind) + 1] is BaseCursor
    )
