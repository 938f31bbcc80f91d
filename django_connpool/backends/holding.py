"""The connection in a wrapper's hand: how it gets there, and how it goes back."""

from __future__ import annotations

import weakref
from contextlib import suppress
from time import monotonic
from typing import Any

from django.apps import apps
from django.db.backends.signals import connection_created

from django_connpool import registry, scopes
from django_connpool.errors import PoolClosed, PoolTimeout
from django_connpool.session.birth import recording, repeating

from . import in_vain, loans, recall
from .bound import Bound
from .bursts import bursts

MOST_CLOSED = 8  # pools that may be closed under a borrower before it gives up
_SETTING = frozenset({"_set_autocommit", "set_autocommit"})


class Holding(Bound):
    """Where a wrapper's connection is, in the attributes that say so:

        in hand    `connection` is it
        parked     `parked` is it, and `connection` is unset: its thread does not use it
        recalled   both are unset: it was taken from there. Whoever reads `connection` borrows
        between    so, too, and `is_between` is set: given back early, between two statements
        none       `connection` is None
        set aside  between, or none, and `aside` has it, unless somebody has taken it; see bursts.py

    `connection` is unset when the instance has no such attribute, so that the class's is found.
    In hand it stays, whatever `release` says, as long as one of these is true: `in_atomic_block`
    (Django's), `kept`, `by_hand`, `_thread_sharing_count` (Django's), or the session has a tie.
    """

    connection: Any = recall.Lent()
    parked: Any = None
    parked_at = 0.0  # since when, in monotonic seconds
    is_between = False  # asked before `connection` wherever nothing may be borrowed
    aside: list[Any] | None = None
    kept = 0  # blocks, streams and copies under way that need this very connection
    by_hand = False  # somebody has asked for the connection itself
    is_for_a_statement = False  # what is borrowed now is not meant to be used by hand
    # The binding from whose pool it goes on, having given back early, until the work ends.
    resumes: registry.Binding | None = None
    releases_early = False  # `mode`, or else what the option `release` says
    mode: bool | None = None  # of `hold()` blocks
    # Of this loan:
    life: scopes.Life | None = None  # of the work that it was borrowed for
    cursors: list[weakref.ref[Any]]  # those that are open are among them
    # Foreign classes that are told of each loan; see stacked.py:
    tells = False
    overridden: frozenset[str] = frozenset()  # what they override of `stacked.TOLD`
    is_told = False  # `init_connection_state` is called for a loan
    is_taken = True  # or what is borrowed now is not in hand yet,
    is_set_up = True  # or not as its settings say

    _thread_ident: int  # Django's
    _thread_sharing_count: int  # Django's

    # -- Borrowing --------------------------------------------------------------------------

    def _borrow(self, binding: registry.Binding) -> None:
        """Take a connection of that pool's in hand. Raises what the pool does."""
        if bursts.aside:
            bursts.collect(monotonic())
        work = scopes.current.get()
        connection = None
        self.is_taken = False
        try:
            try:
                if work is None or not work.in_vain:
                    connection = binding.pool.getconn()
                else:
                    connection = in_vain.getconn(binding.pool, work)
            except PoolTimeout as error:
                in_vain.note(binding.pool, error, work)
                raise
            self._take(binding, connection)
        except BaseException:
            if connection is None:
                raise
            if recall.at_hand(self) is connection:
                if not self.is_set_up:
                    connection.close()  # or the next borrower would have it like this
                self._hand_back(connection)
            elif not self.is_taken:  # and whoever keeps the error would keep it for ever
                binding.pool.putconn(connection)
            raise

    def _borrow_from_next(self, closed: registry.Binding) -> None:
        """Borrow when the pool was closed since we were bound to it, by whoever."""
        self.check_settings()
        for _ in range(MOST_CLOSED):
            self._binding = closed = registry.bind(self, closed)
            try:
                self._borrow(closed)
                return
            except PoolClosed:  # that as well, while this was in line
                pass
        self._borrow(registry.bind(self, closed))

    def _take(self, binding: registry.Binding, connection: Any) -> None:
        """Make a connection that was just borrowed the one in hand."""
        self.is_between = self.errors_occurred = False
        # With no call in between: see `_borrow`.
        self.connection, self.is_taken, self.is_set_up = connection, True, True
        self.releases_early = binding.releases_early if self.mode is None else self.mode
        if self._thread_sharing_count:
            connection._pool.outlive_thread(connection)
        self.isolation_level = connection.connpool_isolation_level
        if self.cursors:
            self.cursors = []
        work = scopes.current.get()
        if work is None:
            self.life = None
        else:
            self.life = work.life
            work.borrowers.add(self)
            if work.ended:
                recall.recaller.soon(self)
        if binding.options.max_hold_idle:
            recall.recaller.watch(binding)
        autocommit = self.settings_dict["AUTOCOMMIT"]
        # Asking the connection costs more than to know what the pool sees to.
        if (
            autocommit
            and (binding.restores or connection.autocommit)
            and (not self.tells or _SETTING.isdisjoint(self.overridden))
        ):
            self.autocommit = True
        else:
            self._keep_during(self.set_autocommit, autocommit)
        if self.tells and "init_connection_state" in self.overridden:
            self.is_set_up = False
            self._keep_during(self._tell_of_birth, connection)
        if connection.connpool_receivers != connection_created.receivers:
            _note_receivers(connection)
            if not connection.connpool_is_new:
                binding.pool.reborn(connection)
        if connection.connpool_is_new:
            if not apps.ready:  # an app that queries as it starts, in a thread that lives on
                recall.recaller.soon(self)
            self.is_set_up = False
            self._keep_during(self._announce, binding, connection)

    def _keep_during(self, call: Any, *args: Any) -> None:
        """Call what may use the connection, but must not give it back."""
        self.kept += 1
        try:
            call(*args)
        finally:
            self.kept -= 1

    def _tell_of_birth(self, connection: Any) -> None:
        """Call a foreign `init_connection_state`, which may keep something on this wrapper.

        What it sets that was set when the connection was opened, too, is not this loan's.
        """
        self.is_told = True
        try:
            with repeating(connection):
                self.init_connection_state()
        finally:
            self.is_told = False

    def _announce(self, binding: registry.Binding, connection: Any) -> None:
        """Send `connection_created`: what its receivers set up is there for every borrower."""
        connection.connpool_is_new = False
        with recording(connection):
            connection_created.send(sender=self.__class__, connection=self)
        binding.pool.reborn(connection)

    def borrow_again(self) -> Any:
        """Borrow in the middle of a step, after the connection it began with was recalled."""
        if self.tells:
            self.connection = None
            self.close()  # which finds that there is none
        self.is_for_a_statement = True
        try:
            with self.wrap_database_errors:
                self.connect()
        finally:
            self.is_for_a_statement = False
        return self.connection

    # -- Giving back ------------------------------------------------------------------------

    def _hand_back(self, connection: Any) -> None:
        """Give back what is in hand, unless another is by now, as after a signal handler's query.

        An interrupt may strike anywhere in it. A cursor that is still open would keep the loan
        alive, so it is ended here in any case, unless it is over, and the connection somebody
        else's.
        """
        pool, loan = connection._pool, loans.epoch(connection)
        try:
            # With no call in between: whatever happens below, this wrapper cannot use it again.
            if self.is_between or self.connection is not connection:
                return
            self.connection = None
            work = scopes.current.get()
            if work is not None:
                work.borrowers.discard(self)
                if work.in_vain:
                    work.in_vain.pop(pool, None)
            pool.putconn(connection)
        except self.Database.Error:
            with self.wrap_database_errors:
                raise
        except BaseException:
            if recall.at_hand(self) is connection:
                self.connection = None
            if loans.epoch(connection) == loan:
                with suppress(ValueError):
                    pool.putconn(connection)
            raise

    def _pin(self, why: str) -> None:
        """Note for the status why this loan lasts longer than a transaction."""
        if not self.is_between:
            loans.pin(self.connection, why)

    @property
    def is_lent(self) -> bool:
        """Whether the connection in hand belongs to a pool."""
        return getattr(recall.held(self), "_pool", None) is not None


def _note_receivers(connection: Any) -> None:
    """Have `connection_created` sent if one listens to it who was not there when it was new.

    An app that is installed late (in tests) would otherwise never hear of the connection.
    """
    receivers = list(connection_created.receivers)
    known = connection.connpool_receivers
    connection.connpool_receivers = receivers
    if any(receiver not in known for receiver in receivers):
        connection.connpool_is_new = True
