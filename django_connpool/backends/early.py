"""`release: "transaction"`: a connection is held no longer than something depends on it.

In autocommit mode that is until the answer to a statement has been read; psycopg reads all of
it at once, so that rows are fetched from memory when the connection has long been given back.
In a transaction it is until the outermost block ends. A session that was given state stays
with its borrower until the request ends: what sees changes for cleaning sees them here.
"""

from __future__ import annotations

import os
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from time import monotonic
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import django
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import InterfaceError

from django_connpool import scopes

from . import loans
from .bursts import LONGEST, LOSS, PAUSES, SHORT, bursts, popped
from .recall import end_between, leave_between, recaller

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as _Base
else:
    _Base = object

CONNECTING = frozenset({"_cursor", "close_if_health_check_failed", "ensure_connection"})
_BY_ATOMIC = "force_begin_transaction_with_broken_autocommit"  # nobody else says so


def _as_django_has_it(name: str) -> Any:
    """A method of Django's; None when somebody has put another in its place already."""
    found: Any = getattr(BaseDatabaseWrapper, name)
    own = type(found) is FunctionType and found.__code__.co_filename.startswith(_DJANGO)
    return found if own else None


_DJANGO = f"{Path(django.__file__).parent}{os.sep}"
# Replaced at run time by packages that connect again, and by Django's tests to forbid connecting.
_ENSURE: Any = _as_django_has_it("ensure_connection")
_CURSOR: Any = _as_django_has_it("_cursor")


class EarlyReleaseMixin(_Base):
    """What a database wrapper does differently while `releases_early` is set."""

    releases_early = False
    _binding: Any
    _thread_ident: int  # Django's
    _thread_sharing_count: int  # Django's
    mode: bool | None = None  # of `hold()` blocks: whether to release early, whatever the option
    kept = 0  # blocks, streams and copies under way that need this very connection
    by_hand = False  # somebody has asked for the connection itself
    # It was given back early, and borrows again when anybody reads `connection`, which is then
    # not in the wrapper's `__dict__`. Asked before `connection` wherever that must not happen.
    is_between = False
    is_connecting = False
    is_for_a_statement = False  # what is borrowed now is not meant to be used by hand
    resumes: Any = None  # the binding from whose pool it goes on, having given back early
    aside: list[Any] | None = None  # the connection between two statements; see bursts.py
    released_at = 0.0  # when it last gave back early, in monotonic seconds, while others waited
    haste: list[int]  # for each pause of the work: how surely the next statement follows at once
    pauses = 0  # so far, in the work under way
    autocommit_by_atomic: bool  # see work.py
    note_atomic: Callable[[], None]
    tells = False  # foreign classes are told of each loan; see stacked.py
    # No class between this one and Django's has a way of its own; so calls can be saved.
    connects_as_django = False

    def connect_for_a_statement(self) -> None:
        """Borrow, if there is no connection at hand, for no longer than necessary."""
        if self.is_between or self.connection is None:
            if self.aside is not None:
                if self._goes_on():
                    return
            elif self.released_at:
                self._learn()
            binding = self.resumes  # looked at once: another thread may end the work
            resumes = binding is not None and not self.in_atomic_block
            if resumes and not self.tells:
                self.resume(binding)
                return
            if self.is_between:
                end_between(cast(Any, self))
            hooks = self.run_on_commit
            self.is_for_a_statement = True
            try:
                if self.connects_as_django and BaseDatabaseWrapper.ensure_connection is _ENSURE:
                    self.connect()
                else:
                    self.ensure_connection()
            except self.Database.Error:
                # Here and below only now, because it costs two calls, and errors are rare.
                with self.wrap_database_errors:
                    raise
            finally:
                self.is_for_a_statement = False
                if resumes:  # as if the connection had been held
                    self.run_on_commit = hooks

    def borrow_to_look(self) -> Any:
        """For who reads `connection` between two statements: it is kept until the work ends."""
        if self._thread_ident != get_ident() and not self._thread_sharing_count:
            return None
        if self.aside is not None:
            self.end_burst()  # others wait, and this may last
        self.connect_for_a_statement()
        self.by_hand = True
        self._pin("taken by reading `connection`")
        return self.connection

    def resume(self, binding: Any) -> None:
        raise NotImplementedError

    def _cursor(self, name: str | None = None) -> Any:
        if self.errors_occurred:
            self.close_if_health_check_failed()
        if self.is_between or self.connection is None:
            self.connect_for_a_statement()
        if (
            not self.connects_as_django
            or BaseDatabaseWrapper.ensure_connection is not _ENSURE
            or BaseDatabaseWrapper._cursor is not _CURSOR  # type: ignore[attr-defined]
            or getattr(self.connection, "_pool", None) is None
        ):
            return super()._cursor(name)  # type: ignore[misc]
        # What Django's own does when it finds that there is a connection, and no error so far.
        try:
            return self._prepare_cursor(self.create_cursor(name))  # type: ignore[attr-defined]
        except self.Database.Error:
            with self.wrap_database_errors:
                raise

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        if self.is_between:  # Django would look at `connection`, and keep or close it
            with self.cursor() as cursor:
                yield cursor
        else:
            with super().temporary_connection() as cursor:
                yield cursor

    def get_autocommit(self) -> bool:
        if not self.in_atomic_block:
            self.note_atomic()  # which asks this before it begins
        if (
            self.releases_early
            and (self.is_between or self.connection is None)
            and self.settings_dict["AUTOCOMMIT"]
        ):
            return True  # of whatever is borrowed next
        self.connect_for_a_statement()
        return super().get_autocommit()

    def set_autocommit(self, *args: Any, **kwargs: Any) -> None:
        if self.errors_occurred:
            self.close_if_health_check_failed()
        self.connect_for_a_statement()
        if not (args[0] if args else kwargs["autocommit"]):
            self.autocommit_by_atomic = _BY_ATOMIC in kwargs
        super().set_autocommit(*args, **kwargs)

    def _set_autocommit(self, autocommit: bool) -> None:
        super()._set_autocommit(autocommit)  # type: ignore[misc]
        if self.releases_early and autocommit and not self.is_connecting:
            # The transaction is over. What comes now are the hooks of on_commit().
            self.autocommit = True
            self.release_if_free()

    def _commit(self) -> None:
        if self.is_between:  # the last transaction has ended
            return
        super()._commit()  # type: ignore[misc]
        self._release_without_autocommit()

    def _release_without_autocommit(self) -> None:
        """After the end of a transaction, where AUTOCOMMIT is False and there are only those."""
        if self.releases_early and not self.settings_dict["AUTOCOMMIT"]:
            self.release_if_free()

    def release_if_free(self) -> None:
        """Give the connection back unless something depends on it."""
        connection = None if self.is_between else self.connection
        if (
            connection is None
            or not self.releases_early
            or self.in_atomic_block
            or self.kept
            or self.by_hand
            or connection._pool is None
        ):
            return
        if self._thread_sharing_count:  # another thread may be about to use it
            self._pin("shared by threads")
        elif ties := loans.ties(connection, self.settings_dict["AUTOCOMMIT"]):
            self._pin(", ".join(ties))
        elif connection.closed:
            self._let_go(connection)
        else:
            self.pauses += 1
            loans.is_as_it_was(connection)
            self._pause(connection)

    def _let_go(self, connection: Any) -> None:
        if self.tells:
            hooks = self.run_on_commit
            self.close()
            self.run_on_commit = hooks
            self._will_resume()
            leave_between(cast(Any, self))
            return
        if self.resumes is None:
            self._will_resume()
        # With no call in between: a finalizer or signal handler may have come by with a statement
        # of its own, and given back. What it gave back is somebody else's by now.
        if not self.is_between and self.connection is connection:
            loan = loans.epoch(connection)
            try:
                self.connection = None
                self._hand_back(connection)
            except BaseException:
                self.connection = None
                if loans.epoch(connection) == loan:  # an interrupt, before it was over
                    with suppress(ValueError):
                        self._binding.pool.putconn(connection)
                raise
            leave_between(cast(Any, self))

    def _pause(self, connection: Any) -> None:
        """Between two statements: give back; in a burst, while others wait, set aside."""
        if self.tells or not connection._pool.is_awaited:
            self._let_go(connection)
            return
        now = monotonic()
        work = scopes.current.get()
        is_in_haste = self.haste[self.pauses % PAUSES] > 0
        if (
            not is_in_haste
            or now - loans.since(connection) >= LONGEST
            or work is None
            or work.ended
        ):
            self.released_at = now
            self._let_go(connection)
            return
        if self.resumes is None:
            self.resumes = self._binding
        aside, loan = [connection], loans.of(connection)
        if self.is_between or self.connection is not connection:
            return  # as in `_let_go`
        try:
            # Before anything is called, so that such a handler finds it; `pinned` before others do.
            self.connection = None
            self.released_at = now
            loan.pinned = loans.BURST
            self.aside = aside
            work.borrowers.discard(self)
            work.resumers.add(self)
            bursts.aside.append((now, aside))
            if not bursts.is_watched:
                bursts.watch(now)
        except BaseException:
            # An interrupt. Whoever has popped it since has it.
            self.connection = None
            for left in popped(aside):
                left._pool.putconn(left)
            raise
        leave_between(cast(Any, self))

    def _goes_on(self) -> bool:
        """Take up again what was set aside, unless somebody else has, or it has died."""
        if _get_running_loop() is not None:
            return False  # which is refused by what comes next
        # First: a signal handler that comes by has to find what was set aside.
        was_short = self._learn()
        aside, self.aside = self.aside, None
        try:
            connection = aside.pop()  # type: ignore[union-attr]
        except (AttributeError, IndexError):  # somebody has taken it, or ended the work meanwhile
            return False
        try:
            work = scopes.current.get()
            # A moment ago it answered, and while a connection is held nobody asks either.
            alive = was_short or loans.is_alive(connection)
            if alive:
                loans.pin(connection, None)
                if work is not None:
                    work.borrowers.add(self)
                self.errors_occurred = False
                self.is_between = False
                self.connection = connection
        except BaseException:
            self._hand_back(connection)
            raise
        if not alive:
            self._hand_back(connection)
            return False
        if work is not None and work.ended:
            recaller.soon(cast(Any, self))
        binding = self._binding
        if binding is not None and binding.options.max_hold_idle:
            recaller.watch(binding)
        return True

    def _learn(self, ends: bool = False) -> bool:
        """Note whether a statement has followed at once; return whether the pause was short.

        `ends`: what follows is no statement, so that giving back had been the thing to do.
        """
        was_short = monotonic() - self.released_at < SHORT
        self.released_at = 0.0
        haste, pause = self.haste, self.pauses % PAUSES
        before = haste[pause]
        if not was_short:
            haste[pause] = max(before - LOSS, -LOSS)
        elif ends:
            haste[pause] = min(before, max(before - 1, 0))
        elif before < LOSS:
            haste[pause] = before + 1
        return was_short

    def end_burst(self) -> None:
        """Give back what was set aside, unless somebody has taken it. In whichever thread."""
        if self.aside is None:
            return
        self._learn(ends=True)
        aside, self.aside = self.aside, None
        for connection in popped(aside or []):
            connection._pool.putconn(connection)

    def stop_resuming(self) -> None:
        """Some work has ended: what comes next looks at the settings, and borrows anew."""
        self.resumes = None
        if self.is_between:
            end_between(cast(Any, self))
        if self.aside is not None:
            self.end_burst()
        elif self.released_at:
            self._learn(ends=True)
        self.pauses = 0

    def _will_resume(self) -> None:
        """Go on from the same pool until the work that is under way ends."""
        self.resumes = self._binding
        work = scopes.current.get()
        if work is not None:
            work.resumers.add(self)

    def _pin(self, why: str) -> None:
        """Note for the status why this loan lasts longer than a transaction."""
        if not self.is_between:
            loans.pin(self.connection, why)

    def _hand_back(self, connection: Any) -> None:
        raise NotImplementedError

    @contextmanager
    def keeping(self, why: str) -> Iterator[None]:
        """Keep the connection that is at hand, or is borrowed in this block, until its end."""
        self.kept += 1
        try:
            self._pin(why)
            yield
        finally:
            self.kept -= 1
            self.release_after_use()

    def release_after_use(self) -> None:
        """As `release_if_free`, in whichever thread: the garbage collector ends things in any."""
        if self._thread_sharing_count:
            return
        if self._thread_ident != get_ident():
            recaller.used_elsewhere(self)  # its own thread may be in the middle of a statement
        elif vars(self).get("connection") is not None:  # else it would be borrowed for this
            self.release_if_free()


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
                if vars(wrapper).get("connection") is not None:
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
