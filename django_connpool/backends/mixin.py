"""Pooling over any PostgreSQL `DatabaseWrapper` of Django's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.utils import ProgrammingError
from django.utils.asyncio import async_unsafe

from django_connpool import conf, registry, scopes
from django_connpool.pool import ConnectionPool, PoolClosed, reset

from . import recall
from .creation import pooled
from .opener import Opener

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as _Base
else:
    _Base = object


class PooledDatabaseWrapperMixin(_Base):
    """Borrows a connection where its base class opens one, and gives back where it closes.

    A pooled engine of another package's wrapper is made by inheriting from this first:

        class DatabaseWrapper(PooledDatabaseWrapperMixin, theirs.DatabaseWrapper):
            pass

    What the base class does to open a connection (`get_connection_params`,
    `get_new_connection`, `init_connection_state`, and overrides of them) happens once per
    physical connection, on a wrapper of its own: see `Opener`.
    """

    keeps_pool = False  # whatever is said to `close_pool`; see contrib/celery.py
    is_opener = False  # opens physical connections for a pool, instead of borrowing
    _binding: registry.Binding | None = None
    bound_settings: Mapping[str, Any] | None = None  # as they were at the time of binding
    connection: Any = recall.Lent()  # found only when an instance has none: see recall.py
    parked: Any = None  # the connection, while its owner has to ask for it
    parked_at = 0.0  # since when, in monotonic seconds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        creation_class: Any = self.creation_class
        self.creation_class = pooled(creation_class)
        super().__init__(*args, **kwargs)
        _wrappers.add(self)

    def opener(self, settings_dict: Mapping[str, Any], options: conf.PoolOptions) -> Opener:
        """Return what opens the physical connections of a pool made for this wrapper."""
        zone = {"timezone": self.timezone, "timezone_name": self.timezone_name}
        return Opener(type(self), settings_dict, self.alias, options, zone)

    # -- Which pool -----------------------------------------------------------------------

    @property
    def is_pooled(self) -> bool:
        """Whether this wrapper borrows, rather than opening connections of its own."""
        return not self.is_opener and self.alias != NO_DB_ALIAS and conf.enabled(self.settings_dict)

    @property
    def pool(self) -> ConnectionPool[Any] | None:
        """The pool of the settings as they are now; None when this wrapper is not pooled.

        Raises ImproperlyConfigured for pool options that are unknown or impossible.
        """
        binding = self._bind()
        return None if binding is None else binding.pool

    def _bind(self) -> registry.Binding | None:
        binding = self._binding
        if binding is not None and binding.suits(self):
            return binding
        if not self.is_pooled:
            return None
        _require_psycopg(self.Database)
        self._binding = registry.bind(self, binding)
        return self._binding

    def close_pool(self) -> None:
        """Close the pool, as Django does before it drops or copies a database."""
        if not self.keeps_pool:
            self._leave_pool()

    def _leave_pool(self) -> None:
        if self.is_opener:  # Django's own code calls this while it sets the time zone
            return
        # Also one that only other threads' wrappers have used so far.
        bindings = {self._binding, registry.find(self)}
        self._binding = None
        for binding in bindings:
            if binding is not None:
                registry.close(binding)

    # -- Borrowing and giving back --------------------------------------------------------

    @async_unsafe
    def connect(self) -> None:
        """Borrow a connection. Does what Django's own `connect` does, and nothing twice."""
        binding = self._bind()
        if binding is None:
            super().connect()
            return
        if self.closed_in_transaction and self.in_atomic_block:
            # Django 4.2 does not look: the rest of the block would commit bit by bit.
            raise ProgrammingError("Cannot open a new connection in an atomic block.")
        self.check_settings()
        self._forget_transaction()
        connection = self._borrow(binding)
        self.connection = connection
        self.isolation_level = connection.connpool_isolation_level
        work = scopes.current.get()
        if work is not None:
            work.borrowers.add(self)
            if work.ended:
                recall.recaller.soon(self)
        if binding.options.max_hold_idle:
            recall.recaller.watch(binding)
        autocommit = self.settings_dict["AUTOCOMMIT"]
        if connection.autocommit == autocommit:
            self.autocommit = autocommit
        else:
            self.set_autocommit(autocommit)
        if connection.connpool_is_new:
            connection.connpool_is_new = False
            if not apps.ready:  # an app that queries as it starts, in a thread that lives on
                recall.recaller.soon(self)
            connection_created.send(sender=self.__class__, connection=self)
        self.run_on_commit = []

    def _borrow(self, binding: registry.Binding) -> Any:
        try:
            return binding.pool.getconn()
        except PoolClosed:
            # Closed by another thread between our look and our step: take the next one.
            binding = self._binding = registry.bind(self, binding)
            return binding.pool.getconn()

    @async_unsafe
    def ensure_connection(self) -> None:
        """Borrow unless there is a connection, or the one at hand has died between two steps.

        Not in a transaction: its first half is lost, and whoever runs it has to be told.
        """
        if self.errors_occurred and self.autocommit and not self.in_atomic_block:
            connection = recall.held(self)
            if getattr(connection, "_pool", None) is not None and connection.closed:
                self.close()
        super().ensure_connection()

    def borrow_again(self) -> Any:
        """Borrow in the middle of a step, after the connection it began with was recalled."""
        with self.wrap_database_errors:
            self.connect()
        return self.connection

    def _forget_transaction(self) -> None:
        """What Django resets before connecting, for this loan."""
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        # The pool looks after age and health; Django's own timers are off.
        self.health_check_enabled = False
        self.health_check_done = True
        self.close_at = None
        self.closed_in_transaction = False
        self.errors_occurred = False

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        pool = self.pool
        return super().get_new_connection(conn_params) if pool is None else pool.getconn()

    @async_unsafe
    def close(self) -> None:
        if "connection" not in vars(self):
            recall.held(self)
        super().close()

    def _close(self) -> Any:
        connection = self.connection
        pool = getattr(connection, "_pool", None)
        if pool is None:
            return self._close_own()
        # Forgotten first: whatever happens below, this wrapper cannot use it again.
        self.connection = None
        work = scopes.current.get()
        if work is not None:
            work.borrowers.discard(self)
        with self.wrap_database_errors:
            if not self.settings_dict["AUTOCOMMIT"]:
                # Every loan ends in a transaction here: no reason for the pool to warn.
                reset.leave_transaction(connection)
            pool.putconn(connection)
        return None

    def _close_own(self) -> Any:
        """Close a connection no pool knows; Django's own code would look for its pool.

        Such is one whose thread has ended: the pool took it back then.
        """
        if self.connection is None or not self.is_pooled:
            return super()._close()  # type: ignore[misc]
        with self.wrap_database_errors:
            self.connection.close()
        return None

    def close_if_health_check_failed(self) -> None:
        if not self.is_lent:
            super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back at the end of a request, as Django closes when CONN_MAX_AGE is 0.

        Not inside an atomic block, which a request handled inside a test is in.
        """
        if not self.is_lent:
            super().close_if_unusable_or_obsolete()
        elif not self.in_atomic_block:
            self.close()

    @property
    def is_lent(self) -> bool:
        """Whether the connection at hand belongs to a pool."""
        return getattr(recall.held(self), "_pool", None) is not None

    # -- Settings that change under a loan ------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        return conf.strip(super().get_connection_params())

    def ensure_timezone(self) -> bool:
        """Django calls this when TIME_ZONE or USE_TZ changed: new loans come from a new pool."""
        self._leave_pool()
        return bool(super().ensure_timezone())


_wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()


def _require_psycopg(driver: Any) -> None:
    if driver.__name__ != "psycopg":
        raise ImproperlyConfigured(
            "django_connpool needs psycopg 3, and Django has found psycopg2 only: "
            "pip install 'psycopg[binary]'."
        )


def _forget_loans() -> None:
    """In a forked child: its parent's connections are not its own."""
    for wrapper in list(_wrappers):
        wrapper._binding = None  # bound again, the child's pool is announced
        if wrapper.is_lent:
            wrapper.connection = None
            if wrapper.in_atomic_block:
                # The parent's transaction cannot go on here: Django then says so.
                wrapper.closed_in_transaction = wrapper.needs_rollback = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loans)
