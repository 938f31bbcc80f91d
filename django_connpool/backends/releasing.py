"""`release: "transaction"`: a connection is held no longer than something depends on it.

In autocommit mode that is until the answer to a statement has been read; psycopg reads all of
it at once, so that rows are fetched from memory when the connection has long been given back.
In a transaction it is until the outermost block ends. A session that was given state stays
with its borrower until the request ends: what sees changes for cleaning sees them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from django_connpool.errors import PoolClosed
from django_connpool.process.cpython import running_loop
from django_connpool.registry import Binding

from . import djangos, loans
from .pauses import Pausing
from .recall import at_hand, end_between, recaller


class Releasing(Pausing):
    """Borrows for a statement, and gives back when nothing depends on the connection any more."""

    # No class between this one and Django's has a way of its own to connect; so calls can be saved.
    connects_as_django = False

    # -- Borrowing for a statement ----------------------------------------------------------

    def connect_for_a_statement(self) -> None:
        """Borrow, if there is no connection at hand, for no longer than necessary."""
        if not self.is_between and self.connection is not None:
            return
        if self.aside is not None:
            if self._goes_on():
                return
        elif self.haste.left_at:
            self.haste.learn()
        binding = self.resumes  # looked at once: another thread may end the work
        resumes = binding is not None and not self.in_atomic_block
        if binding is not None and resumes and not self.tells:
            self._resume(binding)
            return
        if self.is_between:
            end_between(self)
        hooks = self.run_on_commit
        self.is_for_a_statement = True
        try:
            if self.connects_as_django and BaseDatabaseWrapper.ensure_connection is djangos.ENSURE:
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

    def _resume(self, binding: Binding) -> None:
        """Borrow again in the middle of some work, as if the connection had been held.

        So the settings are not looked at, and hooks that wait for a commit go on waiting.
        """
        if running_loop() is not None:
            self._refuse_event_loops()
        if self.aside is not None:
            self.end_burst()
        try:
            self._borrow(binding)
        except PoolClosed:
            self.resumes = None  # what follows finds the pool that is now the right one
            self.connect_for_a_statement()
        except self.Database.Error:
            with self.wrap_database_errors:
                raise

    @async_unsafe
    def _refuse_event_loops(self) -> None:
        """Raise SynchronousOnlyOperation. Around `connect` it would cost an exception each time."""

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

    # -- Giving back ------------------------------------------------------------------------

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
            self.haste.pauses += 1
            loans.is_as_it_was(connection)
            self._pause(connection)

    def release_after_use(self) -> None:
        """As `release_if_free`, in whichever thread: the garbage collector ends things in any."""
        if self._thread_sharing_count:
            return
        if self._thread_ident != get_ident():
            recaller.used_elsewhere(self)  # its own thread may be in the middle of a statement
        elif at_hand(self) is not None:  # else it would be borrowed for this
            self.release_if_free()

    def release_without_autocommit(self) -> None:
        """After the end of a transaction, where AUTOCOMMIT is False and there are only those."""
        if self.releases_early and not self.settings_dict["AUTOCOMMIT"]:
            self.release_if_free()

    def stop_resuming(self) -> None:
        """Some work has ended: what comes next looks at the settings, and borrows anew."""
        self.resumes = None
        if self.is_between:
            end_between(self)
        if self.aside is not None:
            self.end_burst()
        elif self.haste.left_at:
            self.haste.learn(ends=True)
        self.haste.pauses = 0

    # -- Keeping ----------------------------------------------------------------------------

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

    def set_mode(self, releases_early: bool | None) -> None:
        """Release early or not, whatever the option says; None leaves it to the option."""
        self.mode = releases_early
        binding = self._binding
        self.releases_early = binding is not None and binding.releases_early
        if releases_early is not None:
            self.releases_early = releases_early
