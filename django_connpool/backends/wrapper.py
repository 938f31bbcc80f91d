"""Django's hooks to connect, to close, for transactions and threads. Floors below have the rest."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakSet

from django.db.utils import DatabaseError, ProgrammingError
from django.utils.asyncio import async_unsafe

from django_connpool import conf, registry, requests, runners
from django_connpool.errors import PoolClosed
from django_connpool.process import forks
from django_connpool.process.cpython import running_loop
from django_connpool.readers import REQUEST
from django_connpool.session import rest, riding
from django_connpool.session.changes import rolling_back

from . import creation, djangos, operations, schema, stacked
from .querying import Querying

_BY_ATOMIC = "force_begin_transaction_with_broken_autocommit"  # nobody else says so


class PooledDatabaseWrapperMixin(Querying):
    """Borrows a connection where its base class opens one, and gives back where it closes.

    A pooled engine of another package's wrapper is made by inheriting from this first:

        class DatabaseWrapper(PooledDatabaseWrapperMixin, theirs.DatabaseWrapper):
            pass

    What the base class does to open a connection (`get_connection_params`,
    `get_new_connection`, `init_connection_state`, and overrides of them) happens once per
    physical connection, on a wrapper of its own: see `Opener`. To classes of other packages each
    loan is a connection that begins and ends: see `stacked.py`.
    """

    on_floor = ""  # the method that has come down to it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.floor = stacked.lay_floor(cls, PooledDatabaseWrapperMixin)
        cls.overridden = stacked.overridden(cls.__mro__)
        cls.has_foreign_hooks = bool(cls.overridden)
        cls.creates_as_django = cls.create_cursor is Querying.create_cursor and djangos.creates(
            super(Querying, cls)
        )
        cls.connects_as_django = all(
            not stacked.is_foreign(base) or djangos.CONNECTING.isdisjoint(vars(base))
            for base in cls.__mro__
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        this: Any = self
        this.creation_class = creation.pooled(this.creation_class)
        this.ops_class = operations.pooled(this.ops_class)
        super().__init__(*args, **kwargs)
        _wrappers.add(self)

    # -- Which pool -----------------------------------------------------------------------

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
        self.unpark()
        # Also one that only other threads' wrappers have used so far.
        bindings = {self._binding, registry.find(self)}
        self.stop_resuming()
        self._binding = None
        for binding in bindings:
            if binding is not None:
                registry.close(binding)

    def get_connection_params(self) -> dict[str, Any]:
        return conf.strip(super().get_connection_params())

    def ensure_timezone(self) -> bool:
        """Django calls this when TIME_ZONE or USE_TZ changed: new loans come from a new pool.

        Django 4.2 also does where a connection begins.
        """
        if not self.in_foreign_init:
            self._leave_pool()
        return bool(super().ensure_timezone())

    def schema_editor(self, *args: Any, **kwargs: Any) -> Any:
        return schema.pooled(super().schema_editor(*args, **kwargs))

    # -- Borrowing and giving back --------------------------------------------------------

    def connect(self) -> None:
        """Borrow a connection. Does what Django's own `connect` does, and nothing twice."""
        if self.floor is not None and self.on_floor != "connect":
            super().connect()
            return
        if running_loop() is not None:
            self._refuse_event_loops()
        if self.offer is not None:
            self.surrender()
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
        # What Django resets before connecting.
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        # The pool looks after age and health; Django's own timers are off.
        self.health_check_enabled = False
        self.health_check_done = True
        self.close_at = None
        self.closed_in_transaction = False
        try:
            self._borrow(binding)
        except PoolClosed:
            if not binding.pool.closed:  # somebody else's, to a receiver of connection_created
                raise
            self._borrow_from_next(binding)
        self.run_on_commit = []

    def _above_django(self) -> Any:
        """What is called with `super()`, from where the foreign classes below have been called."""
        return super(self.floor or PooledDatabaseWrapperMixin, self)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        pool = self.pool
        connect = super().get_new_connection
        return self.open_beside_pools(conn_params, connect) if pool is None else pool.getconn()

    @async_unsafe
    def close(self) -> None:
        self.validate_thread_sharing()
        if self.in_atomic_block and not self.closed_in_transaction:
            self.end_lost_block()
        self.stop_resuming()
        super().close()

    def _close(self) -> Any:
        if self.floor is not None and self.on_floor != "_close":
            return super()._close()  # type: ignore[misc]
        connection = self.in_hand
        pool = getattr(connection, "_pool", None)
        if pool is None:
            return self._close_own()
        if not self.settings_dict["AUTOCOMMIT"]:
            # Every loan ends in a transaction here: no reason for the pool to warn.
            rest.leave_transaction(connection)
        self.by_hand = False
        self._hand_back(connection)
        return None

    def _close_own(self) -> Any:
        """Close a connection no pool knows; Django's own code would look for its pool.

        Such is one whose thread has ended: the pool took it back then.
        """
        if self.in_hand is None or not self.is_pooled:
            return self._above_django()._close()
        with self.wrap_database_errors:
            self.in_hand.close()
        return None

    def close_if_health_check_failed(self) -> None:
        """Called before a cursor is made after an error: give back what has died in hand.

        Not in a transaction: its first half is lost, and whoever runs it has to be told.
        """
        if (
            self.errors_occurred
            and self.autocommit
            and not self.in_atomic_block
            and self.is_lent
            and self.in_hand.closed
        ):
            self.close()
        connection = self.in_hand
        if connection is not None and getattr(connection, "_pool", None) is None:
            super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """A request ends: give back, unless inside an atomic block, as that of a test case."""
        if self.is_idle:
            return  # as with most: Django asks every alias, before a request and after it
        if self.floor is not None and self.on_floor != "close_if_unusable_or_obsolete":
            super().close_if_unusable_or_obsolete()
            return
        if self.in_atomic_block:
            self.end_lost_block()
        if self.in_hand is not None and getattr(self.in_hand, "_pool", None) is None:
            self._above_django().close_if_unusable_or_obsolete()
        elif self.in_hand is not None or self.offer is not None or self.resumes is not None:
            is_here = self._thread_ident == get_ident() and running_loop() is None
            (self.end_work if is_here else self._end_work)()

    def end_work(self) -> None:
        """The work that it was for ends: give back, unless in use."""
        if (  # as `is_heard_closing`, without a call: most requests end here
            self.offer
            and not self.has_foreign_hooks
            and type(self).close is PooledDatabaseWrapperMixin.close
            and type(self)._close is PooledDatabaseWrapperMixin._close
            and "close" not in vars(self)  # an override is not passed by
        ):
            self.end_offered(self.offer)
        else:
            self._end_work()

    def _end_work(self) -> None:
        was_offered = (self.offer is not None or self.resumes is not None) and self.stop_resuming()
        if self.in_hand is not None and not self.in_atomic_block and (was_offered or not self.kept):
            self.give_back()
            self.left_at = monotonic()
        if self.in_hand is None:
            self.forget_note()

    def is_heard_closing(self) -> bool:
        """Whether code of others is to be called when the work ends."""
        return (
            self.has_foreign_hooks
            or type(self).close is not PooledDatabaseWrapperMixin.close
            or type(self)._close is not PooledDatabaseWrapperMixin._close
            or "close" in vars(self)
        )

    def end_loan(self) -> None:
        """As `end_work`, because its author says so: nothing is parked."""
        self.unpark()
        self._end_work()

    def give_back(self) -> None:
        """Close: at once where Django's own `close` would find nothing to object to.

        That asks whether this is the right thread and no event loop, and it is what every request
        ends with. An override is not passed by.
        """
        if (
            self._thread_ident != get_ident()
            or running_loop() is not None
            or self.is_heard_closing()
            or self.in_atomic_block
            or self.closed_in_transaction
            or not self.settings_dict["AUTOCOMMIT"]
            or getattr(self.in_hand, "_pool", None) is None
        ):
            self.close()
            return
        self.run_on_commit = []
        self.by_hand = False
        self._hand_back(self.in_hand)

    def is_usable(self) -> bool:
        if self.in_hand is None and self.offer is not None and self.resumes is not None:
            try:
                with self.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except DatabaseError:
                return False
            return True
        by_hand = self.by_hand
        # Django 4.2 does not look: with it, what is closed is still there to be asked.
        usable = self.in_hand is not None and super().is_usable()
        self.by_hand = by_hand  # that was Django
        return usable

    # -- Transactions ---------------------------------------------------------------------

    def get_autocommit(self) -> bool:
        if not self.in_atomic_block:
            self.note_atomic()  # which asks this before it begins
        if (
            self.in_hand is None
            and self.release not in (None, REQUEST)
            and self.settings_dict["AUTOCOMMIT"]
        ):
            return True  # of whatever is borrowed next
        self.connect_for_a_statement()
        before = self.by_hand, self.has_deferred
        self.has_deferred = False
        autocommit = super().get_autocommit()
        self.by_hand, self.has_deferred = before  # that was Django
        return autocommit

    def set_autocommit(self, *args: Any, **kwargs: Any) -> None:
        if self.errors_occurred:
            self.close_if_health_check_failed()
        self.connect_for_a_statement()
        if not (args[0] if args else kwargs["autocommit"]):
            self.autocommit_by_atomic = _BY_ATOMIC in kwargs
        self.by_hand_before = self.by_hand
        super().set_autocommit(*args, **kwargs)

    def _set_autocommit(self, autocommit: bool) -> None:
        by_hand, self.by_hand_before = self.by_hand_before, None
        super()._set_autocommit(autocommit)  # type: ignore[misc]
        if by_hand is not None:  # or somebody else has called this
            self.by_hand = by_hand
        if autocommit:
            # The transaction is over. What comes now are the hooks of on_commit().
            self.autocommit = True
            self.release_if_free()

    def _savepoint(self, sid: str) -> None:
        # Who has looked at the connection may end the transaction past this.
        if self.by_hand:
            super()._savepoint(sid)  # type: ignore[misc]
        else:
            step = super()._savepoint  # type: ignore[misc]
            self._at_savepoint(step, sid, self.ops.savepoint_create_sql(sid), riding.defer)
            self.has_deferred = True

    def _savepoint_rollback(self, sid: str) -> None:
        step = super()._savepoint_rollback  # type: ignore[misc]
        self._at_savepoint(step, sid, self.ops.savepoint_rollback_sql(sid), riding.go_back)

    def _savepoint_commit(self, sid: str) -> None:
        step = super()._savepoint_commit  # type: ignore[misc]
        self._at_savepoint(step, sid, self.ops.savepoint_commit_sql(sid), riding.take_back)

    def _at_savepoint(
        self, step: Callable[[str], None], sid: str, sql: str, is_done: Callable[[bytes, Any], bool]
    ) -> None:
        """Have Django do something with a savepoint; `is_done` says if its `sql` need not be sent.

        Only of that text: an interrupt at the end of this may leave `at_savepoint` as it is.
        """
        made = self.ops.savepoint_create_sql(sid).encode()
        self.at_savepoint = lambda query, cursor: query == sql and is_done(made, cursor)
        try:
            step(sid)
        finally:
            self.at_savepoint = None

    def _commit(self) -> None:
        self._end_transaction(super()._commit)  # type: ignore[misc]

    def _rollback(self) -> None:
        with rolling_back(self.in_hand):
            self._end_transaction(super()._rollback)  # type: ignore[misc]

    def _end_transaction(self, end: Callable[[], None]) -> None:
        if self.in_hand is None and self.offer is not None:  # the last one has ended
            return
        by_hand = self.by_hand
        try:
            end()
        finally:
            self.by_hand = by_hand  # that was Django
        if not self.settings_dict["AUTOCOMMIT"]:  # there are only transactions
            self.release_if_free()


_wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()
requests.connect()


def _forget_loans() -> None:
    """In a forked child: its parent's connections are not its own."""
    for wrapper in list(_wrappers):
        wrapper._binding = wrapper.resumes = None  # bound again, the child's pool is announced
        wrapper.offer = None
        wrapper.parked = False
        if wrapper.is_lent:
            wrapper.connection = None
            wrapper.by_hand = False
            if wrapper.in_atomic_block:
                # The parent's transaction cannot go on here: Django then says so.
                wrapper.closed_in_transaction = wrapper.needs_rollback = True


forks.in_child(_forget_loans, forks.Floor.WRAPPERS)
