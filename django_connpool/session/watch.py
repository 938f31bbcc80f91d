"""Sees what is done to a session, statement by statement, before it is sent.

psycopg lets a connection name the classes of its cursors. Ours are those classes with a
watcher in front (`watched`). Cursors that somebody makes by hand go past it, but not unseen:
every statement begins with the connection's own `_start_query`, which finds that it was not
announced, and expects the worst.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg import Error, InterfaceError, OperationalError
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, TransactionStatus

from django_connpool.redaction import without_values

from . import roles
from .foreign import (
    ClientCursor,
    Connection,
    Cursor,
    RawCursor,
    behind,
    is_class,
    is_psycopgs,
    say_once,
)
from .statements import (
    ANYTHING,
    CALLS,
    CHANNELS,
    DEFINES,
    DIRT,
    ENDS,
    HELD,
    MAYBE,
    NAMES,
    RECALLS,
    RENAMED,
    ROLES,
    SETTINGS,
    STICKS,
    TEMP,
    WRITES,
    Judge,
)

if TYPE_CHECKING:
    from .hidden import Hidden

IDLE = TransactionStatus.IDLE
_SANE = (IDLE, TransactionStatus.INTRANS)
_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_RENAMES = TEMP | NAMES
_MAYBE = MAYBE | SETTINGS | ROLES
_ROLLBACK = re.compile(r"\s*(?:rollback|abort)\b", re.IGNORECASE | re.ASCII)


class Watch:
    """What is known of one session. Used by the thread that has the connection.

    `dirt` is what this loan may have left behind, `kept` the part of it that a rollback of
    the current transaction would not undo.
    """

    __slots__ = (
        "__weakref__",
        "_open",
        "_wrote_in",
        "announced",
        "born",
        "called",
        "dirt",
        "judge",
        "kept",
        "known",
        "last",
        "loan",
        "recorded",
        "records",
        "undecided",
    )

    is_blind = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.known = judge.known
        self.dirt = 0
        self.kept = 0
        self.loan = 0  # which loan of the connection this is; cursors of earlier ones are stale
        self.last: Any = None  # the last statement of this loan
        self.called = False  # functions may have run in it: what the server reports will tell
        self.announced = False  # the statement that begins next has been looked at
        self.records = False
        self.recorded = 0
        # What was done to the session at its birth, and what kind of state that is, so that
        # it can be done again; None when that cannot be told. See `recording`.
        self.born: list[tuple[int, bytes]] | None = []
        self.undecided: Hidden | bool | None = False  # by what was last decided what MAYBE means
        self._open: set[str] = set()  # psycopg's named cursors that may be open on the server
        self._wrote_in = -1  # the last loan that may have advanced a sequence

    @property
    def listens(self) -> bool:
        """Whether the session listens from its birth."""
        return any(kinds & CHANNELS for kinds, _ in self.born or ())

    def note(self, query: Any, conn: Any) -> None:
        """A statement is about to begin."""
        self.last = query
        self.weigh(self.judge(query, conn), conn)

    def weigh(self, bits: int, conn: Any) -> None:
        """What a statement that is about to begin may do to the session."""
        if bits & RECALLS and self._wrote_in != self.loan:
            self._forget_sequences(conn)
        if bits & WRITES:
            self._wrote_in = self.loan
            if self.born != [] and self._was_born_with(TEMP):
                bits |= TEMP  # for it may be a temporary table that every borrower finds
        if bits & _RENAMES and not self.records and conn.prepare_threshold is not None:
            bits |= RENAMED
        if bits & CALLS:
            self.called = True
        if bits & DEFINES and self.judge.defined is not None:
            self.judge.defined(self)
        dirt = bits & DIRT
        at_rest = conn.pgconn.transaction_status == IDLE
        if at_rest or bits & ENDS:
            self.kept = self.dirt
        self.dirt |= dirt
        if bits & STICKS or (at_rest and conn.autocommit):
            self.kept |= dirt

    def _was_born_with(self, kind: int) -> bool:
        return self.born is None or any(kinds & kind for kinds, _ in self.born)

    def _forget_sequences(self, conn: Any) -> None:
        """Let currval() and lastval() find nothing of an earlier loan.

        Not done when a loan ends: every INSERT into a table with a serial key would make the
        session dirty, and cleaning throws the numbers away that a sequence has cached.
        """
        if conn.pgconn.pipeline_status:
            for _ in conn._exec_command(b"DISCARD SEQUENCES"):  # which is only put in line
                pass
        elif conn.pgconn.transaction_status in _SANE:
            conn.pgconn.exec_(b"DISCARD SEQUENCES")

    def record(self, query: Any, params: Any, conn: Any) -> None:
        """A statement of the session's birth is about to be sent."""
        if isinstance(query, str) and _ROLLBACK.match(query):
            self.take_back()
        dirt = self._dirt_of_birth(query, conn)
        self.recorded |= dirt
        if not dirt and self.judge(query, conn) & (CALLS | WRITES) == CALLS:
            dirt = _MAYBE  # it may be a function that is not known yet to do something
            self.undecided = False
        if dirt and self.born is not None:
            text = ClientCursor(conn).mogrify(query, params)
            self.born.append((dirt, text.encode(conn.info.encoding)))

    def use(self, judge: Judge) -> None:
        """Go by that judge from now on, or by what it has learned."""
        self.judge = judge
        self.known = judge.known

    def decide(self) -> None:
        """Say of what was done at birth, and may have changed the session, whether it did.

        By what is known by now of the functions on the server.
        """
        hidden = self.judge.hidden
        if self.born and self.undecided is not hidden:
            for place, (kinds, text) in enumerate(self.born):
                if kinds & MAYBE:
                    self.born[place] = (MAYBE | (self.judge(text) & DIRT), text)
        self.undecided = hidden

    def record_in_vain(self, query: Any, conn: Any) -> None:
        """A statement of the session's birth is about to be sent, in a way that has no text."""
        if self._dirt_of_birth(query, conn):
            self.born = None

    def take_back(self) -> None:
        """Something is rolled back while the session is born: who knows what of it."""
        if self.recorded:
            self.born = None

    def forget_failed(self, recorded: int, query: Any, conn: Any) -> None:
        """A statement has failed: nothing that came after the first `recorded` ones is so."""
        if self.born is not None:
            del self.born[recorded:]
            if self.judge(query, conn) & ENDS:  # the first of several may have been committed
                self.take_back()

    def _dirt_of_birth(self, query: Any, conn: Any) -> int:
        bits = self.judge(query, conn)
        dirt = bits & DIRT
        if bits & WRITES and self._was_born_with(TEMP):
            dirt |= TEMP  # for it may be the rows of a temporary table
        return dirt

    def expect_the_worst(self) -> None:
        """A statement has begun that nobody has looked at."""
        if self.records:
            self.born = None
        self.called = True
        self.dirt |= ANYTHING
        self.kept |= ANYTHING
        self.last = self.last or "a statement that was not seen"

    def cursor_opens(self, name: str) -> None:
        self._open.add(name)
        self.dirt |= HELD
        self.kept |= HELD

    def cursor_closes(self, name: str) -> None:
        self._open.discard(name)
        if not self._open:
            self.dirt &= ~HELD
            self.kept &= ~HELD

    def rolled_back(self) -> None:
        """The transaction in which the last statements ran was rolled back, for certain."""
        self.dirt = self.kept

    def forget(self) -> None:
        """The session has been cleaned, or has just been born."""
        self.dirt = self.kept = 0
        self._open.clear()

    def text_of_last(self) -> str:
        """The last statement, for a message: without its values."""
        return "" if self.last is None else without_values(self.last)


class BlindWatch(Watch):
    """Of a session whose statements may go unseen: every loan may have left anything behind."""

    __slots__ = ()

    is_blind = True

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self.forget()

    def forget(self) -> None:
        super().forget()
        self.dirt = self.kept = ANYTHING

    def cursor_closes(self, name: str) -> None:
        self._open.discard(name)


@contextmanager
def rolling_back(conn: Any) -> Iterator[None]:
    """Around a rollback of the whole transaction: what that undoes is no dirt any more.

    Certain only of a transaction that the watch has seen begin; those of psycopg's
    `transaction()` blocks and of two-phase commits begin elsewhere.
    """
    watch: Watch | None = getattr(conn, "_watch", None)
    certain = (
        watch is not None
        and conn.pgconn.transaction_status in _OPEN
        and not getattr(conn, "_num_transactions", True)
        and not getattr(conn, "_tpc", True)
    )
    yield
    if watch is not None and certain:
        watch.rolled_back()


def of(conn: Any) -> Watch:
    """The watch of a connection; one that has seen nothing where none was set."""
    watch: Watch | None = getattr(conn, "_watch", None)
    return _NOBODYS if watch is None else watch


def set_watch(conn: Any, judge: Judge) -> None:
    """Watch a connection from now on. Doing it again only sees to its classes of cursors."""
    conn = behind(conn)
    if not isinstance(conn, Connection):
        # A driver of another kind, such as a test's; else something that hides psycopg's.
        if is_psycopgs(conn) and getattr(conn, "_watch", None) is None:
            conn._watch = BlindWatch(judge)
            conn._watch.born = None  # so that it is closed after its first loan
            say_once(f"{type(conn)} {_HIDDEN}")
        return
    if getattr(conn, "_watch", None) is None:
        conn._watch = _watch_of(conn, judge)
        if conn.__dict__.pop("_was_used", False):
            conn._watch.born = None
    quick = not conn._watch.is_blind
    conn.cursor_factory = watched(conn.cursor_factory, quick)
    conn.server_cursor_factory = watched(conn.server_cursor_factory)


def judge_by(conn: Any, judge: Judge) -> None:
    """Have a connection that is watched judged by this judge, and by what it has learned."""
    watch: Watch | None = getattr(conn, "_watch", None)
    if watch is not None:
        watch.use(judge)


def _watch_of(conn: Any, judge: Judge) -> Watch:
    if not callable(getattr(type(conn), "_start_query", None)):
        say_once(f"{type(conn)} {_UNSEEN}")
        return BlindWatch(judge)
    watch = Watch(judge)
    conn._start_query = _checking(conn, watch)
    return watch


def _checking(conn: Any, watch: Watch) -> Callable[[], Any]:
    """What stands in for a connection's `_start_query`. It must not keep the connection alive."""
    ref = weakref.ref(conn)
    begin = type(conn)._start_query

    def _start_query() -> Any:
        if watch.announced:
            watch.announced = False
        else:
            watch.expect_the_worst()
        this: Any = ref()
        # What psycopg's own does, which is a generator that costs more than all of this.
        return () if this._autocommit else begin(this)

    return _start_query


@contextmanager
def recording(conn: Any) -> Iterator[None]:
    """What is set in this block belongs to the session as it is born: remember how.

    A session that is cleaned has it done again. When it cannot be repeated the session
    cannot be cleaned either.
    """
    watch = of(conn)
    if watch is _NOBODYS:
        yield
        return
    plain, conn.cursor_factory = conn.cursor_factory, _recorded(conn.cursor_factory)
    chosen = conn.cursor_factory
    watch.records, watch.recorded = True, 0
    prepared = conn._prepared
    clear = prepared.clear

    def clear_and_tell() -> bool:
        watch.take_back()
        return bool(clear())

    prepared.clear = clear_and_tell  # what psycopg does at each rollback of its own
    try:
        yield
    finally:
        watch.records = False
        vars(prepared).pop("clear", None)
        if watch.dirt & ~watch.recorded & ~HELD and not watch.is_blind:
            watch.born = None  # by a cursor of another kind
        if conn.cursor_factory is chosen:
            conn.cursor_factory = plain
        watch.last, watch.called = None, False
        watch.forget()


@contextmanager
def repeating(conn: Any) -> Iterator[None]:
    """What is done in this block changes nothing where it was done at the session's birth, too."""
    watch = of(conn)
    before, dirt, kept = watch.born, watch.dirt, watch.kept
    if watch is _NOBODYS or before is None:
        yield
        return
    watch.born = list(before)
    worst = ANYTHING
    try:
        with recording(conn):
            yield
        if watch.born is not None:
            worst = 0
            for kinds, text in watch.born[len(before) :]:
                if (kinds, text) not in before:
                    worst |= kinds
    finally:
        watch.born = before
        watch.dirt, watch.kept = dirt | worst, kept | worst


class _Watched:
    """In front of a psycopg cursor class. It stands aside where the connection has no watch.

    Every statement comes by here, so this calls as little as it can.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # see `_with_front`

    _conn: Any
    _closed: bool
    _loan = -1

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]
        self._loan = connection.__dict__.get("_watch", _NOBODYS).loan

    def _start_query(self, query: Any = None) -> Any:
        watch: Watch = self._conn.__dict__.get("_watch", _NOBODYS)
        if watch.loan != self._loan and not self._closed:
            raise OperationalError(_STALE)
        watch.announced = not self._closed
        if query is not None:
            watch.last = query
            try:
                bits = watch.known[query]
            except (KeyError, TypeError):
                bits = watch.judge(query, self._conn)
            if bits or watch.dirt:
                watch.weigh(bits, self._conn)
        return super()._start_query(query)  # type: ignore[misc]

    def _check(self) -> Watch:
        """Return the watch; OperationalError when the loan is over that the cursor is of.

        Before anything else: from then on the watch is that of another borrower's session.
        """
        watch = of(self._conn)
        if watch.loan != self._loan and not self._closed:
            raise OperationalError(_STALE)
        return watch

    def _raise_for_result(self, result: Any) -> Any:
        # Where psycopg comes by with each error, and with nothing else.
        roles.met_error(self._conn, result.error_field(DiagnosticField.SQLSTATE))
        return super()._raise_for_result(result)  # type: ignore[misc]

    def _start_copy_gen(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._check().note(statement, self._conn)
        return super()._start_copy_gen(statement, *args, **kwargs)  # type: ignore[misc]


class _WatchedPlain(_Watched):
    """In front of a cursor class that is made and begins statements as psycopg's own does.

    What psycopg does in four calls and two generators is done here in one call each, so that
    being watched costs next to nothing. See `_is_plain`.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    _watch: Watch
    _reset: Callable[[], None]
    _last_query: Any

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        _init(self, connection)
        self._row_factory = row_factory or connection.row_factory
        self._watch = watch = getattr(connection, "_watch", _NOBODYS)
        self._loan = watch.loan

    def _start_query(self, query: Any = None) -> Any:
        if self._closed:
            raise InterfaceError("the cursor is closed")
        watch = self._watch
        if watch.loan != self._loan:
            raise OperationalError(_STALE)
        conn = self._conn
        if query is not None:
            watch.last = query
            try:
                bits = watch.known[query]
            except (KeyError, TypeError):
                bits = watch.judge(query, conn)
            if bits or watch.dirt:
                watch.weigh(bits, conn)
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(self)  # type: ignore[arg-type]
        return () if conn._autocommit else conn.__class__._start_query(conn)


class _WatchedNamed(_Watched):
    """In front of a psycopg server-side cursor class."""

    _name: str

    def _make_declare_statement(self, query: Any) -> Any:
        # The query itself, not the DECLARE around it, which has a new name each time.
        self._check().note(query, self._conn)
        return super()._make_declare_statement(query)  # type: ignore[misc]

    def _start_query(self, query: Any = None) -> Any:
        watch = self._check()
        watch.cursor_opens(self._name)
        watch.announced = not self._closed
        return super(_Watched, self)._start_query(query)  # type: ignore[misc]

    def _fetch_gen(self, num: Any) -> Any:
        self._check()
        return super()._fetch_gen(num)  # type: ignore[misc]

    def _scroll_gen(self, value: Any, mode: Any) -> Any:
        self._check()
        return super()._scroll_gen(value, mode)  # type: ignore[misc]

    def _close_gen(self) -> Any:
        watch = of(self._conn)
        if watch.loan != self._loan:  # cleaned away, and the session may be somebody else's
            return _no_statement()
        status = self._conn.pgconn.transaction_status
        if status in _SANE:  # else psycopg leaves it open
            watch.cursor_closes(self._name)
        return super()._close_gen()  # type: ignore[misc]


class _Telling:
    """In front of a cursor class: tells that a connection was used that has no watch yet."""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]
        if "_watch" not in connection.__dict__:
            connection.__dict__["_was_used"] = True


class _Recorded:
    """In front of a watched cursor class, while a session is being born."""

    _conn: Any

    def _convert_query(self, query: Any, params: Any = None) -> Any:
        if params and isinstance(self, RawCursor):  # whose placeholders only the server replaces
            of(self._conn).record_in_vain(query, self._conn)
        else:
            of(self._conn).record(query, params, self._conn)
        return super()._convert_query(query, params)  # type: ignore[misc]

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        watch = of(self._conn)
        recorded = len(watch.born or ())
        try:
            return super().execute(query, *args, **kwargs)  # type: ignore[misc]
        except Error:
            watch.forget_failed(recorded, query, self._conn)
            raise

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        of(self._conn).record_in_vain(query, self._conn)
        return super().executemany(query, *args, **kwargs)  # type: ignore[misc]

    def _start_copy_gen(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        of(self._conn).record_in_vain(statement, self._conn)
        return super()._start_copy_gen(statement, *args, **kwargs)  # type: ignore[misc]


def _no_statement() -> Generator[Any, Any, None]:
    """A generator as psycopg's connections run them, with nothing to send."""
    yield from ()


def watched(cursor_class: Any, quick: bool = True) -> Any:
    """The cursor class with a watcher in front; itself when it has one, or is no class.

    `quick`: where it can be told, do what psycopg's own would in fewer calls.
    """
    if not is_class(cursor_class) or issubclass(cursor_class, _Watched):
        return cursor_class
    if hasattr(cursor_class, "_declare_gen"):
        return _with_front(_WatchedNamed, cursor_class)
    plain = quick and _is_plain(cursor_class)
    return _with_front(_WatchedPlain if plain else _Watched, cursor_class)


def _is_plain(cursor_class: Any) -> bool:
    """Whether `_WatchedPlain` does what this class would: it is psycopg's, as it is known.

    Asked for each connection, because an agent may replace a method at any time.
    """
    return (
        _PSYCOPG_IS_KNOWN
        and issubclass(cursor_class, Cursor)
        and cursor_class.__init__ is Cursor.__init__ is _INIT
        and cursor_class._start_query is _BaseCursor._start_query is _START
        and _BaseCursor.__init__ is _init
        and cursor_class.__mro__[cursor_class.__mro__.index(Cursor) + 1] is _BaseCursor
    )


def telling(cursor_class: Any) -> Any:
    """The cursor class, telling that it was used before its connection had a watch.

    What was set that way cannot be repeated: such a session is not cleaned but replaced.
    """
    return _with_front(_Telling, cursor_class)


def _recorded(cursor_class: Any) -> Any:
    return _with_front(_Recorded, cursor_class)


@lru_cache(maxsize=256)
def _with_front(front: type, cursor_class: Any) -> Any:
    if not is_class(cursor_class):  # a function that makes cursors: theirs are not announced
        return cursor_class
    names: dict[str, Any] = {
        "__module__": cursor_class.__module__,
        "__qualname__": cursor_class.__qualname__,
    }
    if front is _WatchedPlain and not cursor_class.__dictoffset__:
        names["__slots__"] = ("_loan", "_watch")  # psycopg's have no dictionary either
    return type(cursor_class.__name__, (front, cursor_class), names)


def watch_cursor(cursor: Any) -> Any:
    """Put the watcher in front of a cursor that was made by hand; return it."""
    if not isinstance(cursor, _Watched) and getattr(cursor._conn, "_watch", None) is not None:
        with suppress(TypeError):  # its class forbids it: then its statements expect the worst
            cursor.__class__ = watched(cursor.__class__)
            cursor._watch = cursor._conn._watch
            cursor._loan = cursor._watch.loan
    return cursor


def _looks_up(function: Any) -> set[str]:
    """The names that a function looks up; none when it is not one, but a proxy of an agent's."""
    return set(getattr(getattr(function, "__code__", None), "co_names", ()))


_BaseCursor: Any = Cursor.__base__
_INIT, _START = Cursor.__init__, _BaseCursor._start_query
_init = _BaseCursor.__init__
# What the two methods look up is what `_WatchedPlain` does without them, from psycopg 3.2 to 3.3.
_PSYCOPG_IS_KNOWN = _looks_up(_START) == {
    *("closed", "e", "InterfaceError", "_reset", "_last_query", "adapt", "Transformer", "_tx"),
    *("_conn", "_start_query"),
} and _looks_up(_INIT) == {"super", "__init__", "row_factory", "_row_factory"}
_NOBODYS = Watch(Judge())
_STALE = "the connection of this cursor has been given back to its pool"
_UNSEEN = "has no _start_query: statements may go unseen, so every session is cleaned"
_HIDDEN = (
    "hides psycopg's connection, with no __wrapped__ to find it by: what it is used for "
    "goes unseen, so every connection is closed when it is given back"
)
