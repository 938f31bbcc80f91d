"""Pooling over any PostgreSQL `DatabaseWrapper` of Django's."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Mapping
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakSet

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.utils import ProgrammingError
from django.utils.asyncio import async_unsafe

from django_connpool import checks, conf, identity, registry, requests, runners, scopes
from django_connpool.connection_pool import ConnectionPool
from django_connpool.errors import PoolClosed, PoolTimeout
from django_connpool.process import forks
from django_connpool.session import rest, watch

from . import creation, in_vain, loans, recall, schema, stacked
from .bursts import PAUSES, bursts
from .early import CONNECTING, EarlyCursor, EarlyReleaseMixin
from .opener import Opener
from .work import WorkMixin, holds_outside_of

MOST_CLOSED = 8  # pools that may be closed under a borrower before it gives up
_SETTING = frozenset({"_set_autocommit", "set_autocommit"})


class PooledDatabaseWrapperMixin(WorkMixin, EarlyReleaseMixin):
    """Borrows a connection where its base class opens one, and gives back where it closes.

    A pooled engine of another package's wrapper is made by inheriting from this first:

        class DatabaseWrapper(PooledDatabaseWrapperMixin, theirs.DatabaseWrapper):
            pass

    What the base class does to open a connection (`get_connection_params`,
    `get_new_connection`, `init_connection_state`, and overrides of them) happens once per
    physical connection, on a wrapper of its own: see `Opener`. To classes of other packages each
    loan is a connection that begins and ends: see `stacked.py`.
    """

    is_opener = False  # opens physical connections for a pool, instead of borrowing
    _binding: registry.Binding | None = None
    foreign_at_first: Mapping[str, Any]  # settings of other packages, when this was made
    bound_settings: Mapping[str, Any] | None = None  # as they were at the time of binding
    floor: Any = None  # a class; see stacked.py
    on_floor = ""  # the method that has come down to it
    overridden: frozenset[str] = frozenset()  # what foreign classes override of `stacked.TOLD`
    is_told = False  # `init_connection_state` is called for a loan
    _thread_ident: int  # Django's
    is_missed = False  # when it is collected, the registry looks which pools are still wanted
    _thread_sharing_count: int  # Django's
    connection: Any = recall.Lent()  # found only when an instance has none: see recall.py
    parked: Any = None  # the connection, while its owner has to ask for it
    parked_at = 0.0  # since when, in monotonic seconds

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.floor = stacked.lay_floor(cls, PooledDatabaseWrapperMixin)
        cls.overridden = stacked.overridden(cls.__mro__)
        cls.tells = bool(cls.overridden)
        cls.connects_as_django = all(
            not stacked.is_foreign(base) or CONNECTING.isdisjoint(vars(base))
            for base in cls.__mro__
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        this: Any = self
        this.creation_class = creation.pooled(this.creation_class)
        self.haste = [0] * PAUSES
        self.cursors = []
        super().__init__(*args, **kwargs)
        identity.at_first(self.alias)  # as it is now: a wrapper above this may change it
        self.foreign_at_first = identity.foreign(self.settings_dict)
        _wrappers.add(self)

    def opener(self, settings_dict: Mapping[str, Any], options: conf.PoolOptions) -> Opener:
        """Return what opens the physical connections of a pool made for this wrapper."""
        zone = {"timezone": self.timezone, "timezone_name": self.timezone_name}
        return Opener(type(self), settings_dict, self.alias, options, zone)

    def schema_editor(self, *args: Any, **kwargs: Any) -> Any:
        return schema.pooled(super().schema_editor(*args, **kwargs))

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
        if binding is not None and binding.suits(self) and not binding.pool.closed:
            return binding
        if not self.is_pooled:
            return None
        _require_psycopg(self.Database)
        self.check_settings()
        self._binding = registry.bind(self, binding)
        return self._binding

    def set_mode(self, releases_early: bool | None) -> None:
        """Release early or not, whatever the option says; None leaves it to the option."""
        self.mode = releases_early
        binding = self._binding
        self.releases_early = binding is not None and binding.releases_early
        if releases_early is not None:
            self.releases_early = releases_early

    def close_pool(self) -> None:
        """Close the pool, as Django does before it drops or copies a database.

        Not for Celery, which says so after each task in a prefork child, for fear that it uses
        its parent's pool: here a child's is its own.
        """
        if not runners.is_celery_asking():
            self._leave_pool()

    def _leave_pool(self) -> None:
        if self.is_opener:  # Django's own code calls this while it sets the time zone
            return
        # Also one that only other threads' wrappers have used so far.
        bindings = {self._binding, registry.find(self)}
        self.stop_resuming()
        self._binding = None
        for binding in bindings:
            if binding is not None:
                registry.close(binding)

    # -- Borrowing and giving back --------------------------------------------------------

    def connect(self) -> None:
        """Borrow a connection. Does what Django's own `connect` does, and nothing twice."""
        if self.floor is not None and self.on_floor != "connect":
            super().connect()
            return
        if _get_running_loop() is not None:
            self._refuse_event_loops()
        if self.aside is not None:
            self.end_burst()
        binding = self._binding
        # What follows from the settings is done again only when they have changed.
        if binding is None or not binding.suits(self):
            binding = self._bind()
            if binding is None:
                self._above_django().connect()
                return
        if self.closed_in_transaction and self.in_atomic_block:
            # Django 4.2 does not look: the rest of the block would commit bit by bit.
            raise ProgrammingError("Cannot open a new connection in an atomic block.")
        self._forget_transaction()
        if bursts.aside:
            bursts.collect(monotonic())
        work = scopes.current.get()
        try:
            if work is None or not work.in_vain:
                connection = binding.pool.getconn()
            else:
                connection = in_vain.getconn(binding.pool, work)
        except PoolClosed:
            connection = self._borrow_from_next(binding)
        except PoolTimeout as error:
            in_vain.note(binding.pool, error, work)
            raise
        self._take(binding, connection)
        self.run_on_commit = []
        if self.releases_early and not self.is_for_a_statement:
            # Django's ensure_connection() was called from outside: whoever does that is about to
            # use `connection.connection`.
            self.by_hand = True
            self._pin("taken by ensure_connection()")

    def _above_django(self) -> Any:
        """What is called with `super()`, from where the foreign classes below have been called."""
        above: Any = self.floor or PooledDatabaseWrapperMixin
        return super(above, self)

    def resume(self, binding: registry.Binding) -> None:
        """Borrow again in the middle of some work, as if the connection had been held.

        So the settings are not looked at, and hooks that wait for a commit go on waiting.
        """
        if _get_running_loop() is not None:
            self._refuse_event_loops()
        if self.aside is not None:
            self.end_burst()
        if bursts.aside:
            bursts.collect(monotonic())
        work = scopes.current.get()
        try:
            if work is None or not work.in_vain:
                connection = binding.pool.getconn()
            else:
                connection = in_vain.getconn(binding.pool, work)
        except PoolClosed:
            self.resumes = None  # what follows finds the pool that is now the right one
            self.connect_for_a_statement()
        except self.Database.Error as error:
            in_vain.note(binding.pool, error, work)
            with self.wrap_database_errors:
                raise
        else:
            self.errors_occurred = False  # the rest is as the last transaction has left it
            self._take(binding, connection)

    def _take(self, binding: registry.Binding, connection: Any) -> None:
        """Make a connection that was just borrowed the one at hand. It goes back if that fails."""
        self.is_between = False
        self.connection = connection
        try:
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
                self.is_connecting = True
                try:
                    self.set_autocommit(autocommit)
                finally:
                    self.is_connecting = False
            if self.tells and "init_connection_state" in self.overridden:
                self._tell_of_birth(connection)
            if connection.connpool_receivers != connection_created.receivers:
                _note_receivers(connection)
                if not connection.connpool_is_new:
                    binding.pool.reborn(connection)
            if connection.connpool_is_new:
                if not apps.ready:  # an app that queries as it starts, in a thread that lives on
                    recall.recaller.soon(self)
                self._announce(binding, connection)
        except BaseException:
            if vars(self).get("connection") is connection:
                self._hand_back(connection)
            raise

    def _tell_of_birth(self, connection: Any) -> None:
        """Call a foreign `init_connection_state`, which may keep something on this wrapper.

        What it sets that was set when the connection was opened, too, is not this loan's.
        """
        self.kept += 1
        self.is_told = True
        try:
            with watch.repeating(connection):
                self.init_connection_state()
        except BaseException:
            if self.connection is connection:
                connection.close()
            raise
        finally:
            self.is_told = False
            self.kept -= 1

    def _announce(self, binding: registry.Binding, connection: Any) -> None:
        """Send `connection_created`: what its receivers set up is there for every borrower."""
        connection.connpool_is_new = False
        self.kept += 1  # nobody gets it half set up
        try:
            with watch.recording(connection):
                connection_created.send(sender=self.__class__, connection=self)
            binding.pool.reborn(connection)
        except BaseException:
            if self.connection is connection:
                connection.close()  # or the next borrower would have it without being set up
            raise
        finally:
            self.kept -= 1

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        # Django makes named cursors of a class of its own, past the connection's.
        if name:
            cursor = watch.watch_cursor(cursor)
        else:
            self.note_cursor(cursor)
        early = self.releases_early and getattr(self.connection, "_pool", None) is not None
        return EarlyCursor(self, cursor, name) if early else cursor

    def plain_cursor(self, name: str | None = None) -> Any:
        """A cursor of psycopg's, set up as Django wants it, on the connection at hand."""
        cursor = super().create_cursor(name)
        # Django makes named cursors of a class of its own, past the connection's.
        if name:
            return watch.watch_cursor(cursor)
        self.note_cursor(cursor)
        return cursor

    def _rollback(self) -> None:
        if self.is_between:  # the last transaction has ended
            return
        with watch.rolling_back(self.connection):
            super()._rollback()  # type: ignore[misc]
        self._release_without_autocommit()

    @async_unsafe
    def _refuse_event_loops(self) -> None:
        """Raise SynchronousOnlyOperation. Around `connect` it would cost an exception each time."""

    def _borrow_from_next(self, closed: registry.Binding) -> Any:
        """Borrow when the pool was closed since we were bound to it, by whoever."""
        self.check_settings()
        work = scopes.current.get()
        for _ in range(MOST_CLOSED):
            self._binding = closed = registry.bind(self, closed)
            try:
                return in_vain.getconn(closed.pool, work)
            except PoolClosed:  # that as well, while this was in line
                pass
        return in_vain.getconn(registry.bind(self, closed).pool, work)

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
        if self.in_atomic_block and not self.closed_in_transaction:
            self.end_lost_block()
        self.stop_resuming()
        if "connection" not in vars(self):
            recall.held(self)
        super().close()

    def _close(self) -> Any:
        if self.floor is not None and self.on_floor != "_close":
            return super()._close()  # type: ignore[misc]
        connection = self.connection
        pool = getattr(connection, "_pool", None)
        if pool is None:
            return self._close_own()
        if not self.settings_dict["AUTOCOMMIT"]:
            # Every loan ends in a transaction here: no reason for the pool to warn.
            rest.leave_transaction(connection)
        self.by_hand = False
        self._hand_back(connection)
        return None

    def _hand_back(self, connection: Any) -> None:
        pool, loan = connection._pool, loans.epoch(connection)
        try:
            # Forgotten first: whatever happens below, this wrapper cannot use it again.
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
            # An interrupt. A cursor that is still open would keep the loan alive. It can be
            # over, and the connection somebody else's.
            self.connection = None
            if loans.epoch(connection) == loan:
                with suppress(ValueError):
                    pool.putconn(connection)
            raise

    def _close_own(self) -> Any:
        """Close a connection no pool knows; Django's own code would look for its pool.

        Such is one whose thread has ended: the pool took it back then.
        """
        if self.connection is None or not self.is_pooled:
            return self._above_django()._close()
        with self.wrap_database_errors:
            self.connection.close()
        return None

    def close_if_health_check_failed(self) -> None:
        """Called for each cursor: give back what has died in hand between two steps.

        Not in a transaction: its first half is lost, and whoever runs it has to be told.
        """
        if self.errors_occurred and self.autocommit and not self.in_atomic_block:
            connection = recall.held(self)
            if getattr(connection, "_pool", None) is not None and connection.closed:
                self.close()
        if self.is_between:
            return
        connection = self.connection
        if connection is not None and getattr(connection, "_pool", None) is None:
            super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back at the end of a request, as Django closes when CONN_MAX_AGE is 0.

        Not inside an atomic block, which a request handled inside a test is in.
        """
        if self.floor is not None and self.on_floor != "close_if_unusable_or_obsolete":
            super().close_if_unusable_or_obsolete()
            return
        if self.in_atomic_block:
            self.end_lost_block()
        if self.resumes is not None:
            self.stop_resuming()
        own = vars(self)
        connection = own["connection"] if "connection" in own else recall.held(self)
        if connection is None:
            return
        if getattr(connection, "_pool", None) is None:
            self._above_django().close_if_unusable_or_obsolete()
        elif not self.in_atomic_block and not self.kept:
            self.give_back()

    def give_back(self) -> None:
        """Close: at once where Django's own `close` would find nothing to object to.

        That asks whether this is the right thread and no event loop, by two decorators'
        worth of calls, and it is what every request ends with. An override is not passed by.
        """
        if (
            self._thread_ident != get_ident()
            or _get_running_loop() is not None
            or self.tells
            or type(self).close is not PooledDatabaseWrapperMixin.close
            or type(self)._close is not PooledDatabaseWrapperMixin._close
            or "close" in vars(self)
            or self.in_atomic_block
            or self.closed_in_transaction
            or not self.settings_dict["AUTOCOMMIT"]
            or getattr(self.connection, "_pool", None) is None
        ):
            self.close()
            return
        self.run_on_commit = []
        self.by_hand = False
        self._hand_back(self.connection)

    def is_usable(self) -> bool:
        # Django 4.2 does not look: with it, what is closed is still there to be asked.
        return self.connection is not None and super().is_usable()

    @property
    def is_lent(self) -> bool:
        """Whether the connection at hand belongs to a pool."""
        return getattr(recall.held(self), "_pool", None) is not None

    def inc_thread_sharing(self) -> None:
        """As Django's; and what is on loan is not taken back with the thread that borrowed it."""
        self.end_burst()
        super().inc_thread_sharing()
        connection = None if self.is_between else self.connection
        pool = getattr(connection, "_pool", None)
        if pool is not None:
            pool.outlive_thread(connection)

    def dec_thread_sharing(self) -> None:
        super().dec_thread_sharing()
        self.release_after_use()

    # -- Settings that change under a loan ------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        return conf.strip(super().get_connection_params())

    def ensure_timezone(self) -> bool:
        """Django calls this when TIME_ZONE or USE_TZ changed: new loans come from a new pool.

        Django 4.2 also does where a connection begins.
        """
        if not self.is_told:
            self._leave_pool()
        return bool(super().ensure_timezone())


def _note_receivers(connection: Any) -> None:
    """Have `connection_created` sent if one listens to it who was not there when it was new.

    An app that is installed late (in tests) would otherwise never hear of the connection.
    """
    receivers = list(connection_created.receivers)
    known = connection.connpool_receivers
    connection.connpool_receivers = receivers
    if any(receiver not in known for receiver in receivers):
        connection.connpool_is_new = True


_wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()
requests.connect()


def holds_outside_of_work(outer: scopes.Scope | None) -> bool:
    """Whether a thread may have something to do before some work begins; `outer` goes on."""
    return any(holds_outside_of(wrapper, outer) for wrapper in list(_wrappers))


checks.register()  # for a project that has the ENGINE only: they say what is missing


def _require_psycopg(driver: Any) -> None:
    if driver.__name__ != "psycopg":
        raise ImproperlyConfigured(
            "django_connpool needs psycopg 3, and Django has found psycopg2 only: "
            "pip install 'psycopg[binary]'."
        )


def _forget_loans() -> None:
    """In a forked child: its parent's connections are not its own."""
    for wrapper in list(_wrappers):
        wrapper._binding = wrapper.resumes = None  # bound again, the child's pool is announced
        wrapper.aside = None
        if wrapper.is_between:
            recall.end_between(wrapper)
        if wrapper.is_lent:
            wrapper.connection = None
            wrapper.by_hand = False
            if wrapper.in_atomic_block:
                # The parent's transaction cannot go on here: Django then says so.
                wrapper.closed_in_transaction = wrapper.needs_rollback = True


forks.in_child(_forget_loans)
