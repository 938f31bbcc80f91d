"""The connection in a wrapper's hand: how it gets there, and how it goes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any
from weakref import ref

from django.apps import apps
from django.db.backends.signals import connection_created

from django_connpool import registry, scopes
from django_connpool.errors import PoolClosed, PoolTimeout, TooManyRequests
from django_connpool.process.background import NEVER
from django_connpool.readers import AUTO, REQUEST, TRANSACTION
from django_connpool.session.riding import send_now
from django_connpool.session.setup import recording, repeating

from . import in_vain, loans
from .bound import Bound

MOST_CLOSED = 8  # pools that may be closed under a borrower before it gives up
AFTER_START = 0.2  # seconds on offer after which what an app has borrowed as it started goes back
_SETTING = frozenset({"_set_autocommit", "set_autocommit"})


class _InHand:
    """The class attribute `connection`: what is in hand, for everybody but this package.

    Whoever reads it may go on to use the connection, so that is noted.
    """

    def __get__(self, wrapper: Any, owner: type) -> Any:
        if wrapper is None:
            return self
        wrapper.by_hand = True
        if wrapper.in_hand is None and wrapper.offer is not None:
            return wrapper.borrow_to_look()
        if wrapper.has_deferred:
            wrapper.has_deferred = False
            send_now(wrapper.in_hand)
        return wrapper.in_hand

    def __set__(self, wrapper: Any, connection: Any) -> None:
        if wrapper.offer is not None:
            wrapper.surrender()
            wrapper.offer = None
        if connection is not None:
            wrapper.is_idle = False
            wrapper.noted.add(wrapper.me)
        wrapper.in_hand = connection
        wrapper.turn += 1
        wrapper.by_hand = False


class Holding(Bound):
    """Where a wrapper's connection is, in two attributes:

        none       both are None
        in hand    `in_hand` is the connection
        between    `in_hand` is None, and `offer` is not: between two statements of some work.
                   The connection is in the offer, unless somebody has taken it, or it was given
                   back at once. Whoever begins a statement takes it up again, or borrows another

    With none, this thread may have `parked` what its last work had: see pool/parking.py.

    In hand it stays as long as one of these is true: `in_atomic_block` (Django's), `kept`,
    `_thread_sharing_count` (Django's), somebody else has it too, or the session has a tie.
    """

    connection: Any = _InHand()
    # See stacked.py: what is laid under classes of others, and which of these hear of each loan.
    floor: Any = None
    has_foreign_hooks = False
    overridden: frozenset[str] = frozenset()  # what they override of `stacked.LOAN_HOOKS`

    terms: tuple[float, float]  # on which it is offered: see `Offer`
    leaving: loans.Leaving  # has what is on offer, whatever `offer` says
    noted: set[ref[Any]]  # those of its thread that may hold something: see holders.py
    me: ref[Any]  # what it is noted by

    _thread_ident: int  # Django's
    _thread_sharing_count: int  # Django's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Nothing of this is in the class, too: what both have, Python looks up anew each time.
        self.in_hand: Any = None
        # Nothing is held for any work, and no class of others wants to know of its end: the one
        # look at an alias that a request does not touch. False before it is noted that it holds
        # something, and true only after that is taken back.
        self.is_idle = self.floor is None
        self.offer: loans.Offer | None = None  # of this loan, once it has been offered
        self.turn = 0  # another number for each connection that gets into the hand
        self.kept = 0  # blocks, streams and copies under way that need this very connection
        self.by_hand = False  # somebody has read `connection`, and may have it still
        # The same before Django switches autocommit, for which it reads `connection`, too.
        self.by_hand_before: bool | None = None
        # Whether a statement need not be sent: what `execute()` asks while Django makes a
        # savepoint, or ends one. An interrupt may leave it, so it says so of that statement only.
        self.at_savepoint: Callable[[Any, Any], bool] | None = None
        self.has_deferred = False  # a savepoint may wait for the next statement
        # The binding from whose pool it goes on, between two statements, until the work ends.
        self.resumes: registry.Binding | None = None
        # What `leaving.offer` has is of no work; somebody else may have taken it.
        self.parked = False
        self.comes_soon = False  # the last two works of this wrapper followed each other at once
        self.left_at = 0.0  # when the last one ended, in monotonic seconds
        # Between its last two statements others have had its connection, or could have.
        self.pauses = False
        self.went_at = 0.0  # when it last gave back between two statements, in monotonic seconds
        self.release: str | None = None  # how long it is kept; see RELEASES in readers.py
        self.mode: str | None = None  # the same, as a block of `hold()` wants it
        self.offers_each = False  # statements end with it on offer, unless something is special
        self.terms_of: registry.Binding | None = None  # for which pool `terms` are right
        # For which loan, and what it has left in its session, `slot.pinned` says why it stays.
        self.stays_for: tuple[int, int] | None = None
        self.life: scopes.Life | None = None  # of the work that this loan is for
        self.in_foreign_init = False  # `init_connection_state` is called for a loan
        self.is_taken = True  # False while what is being borrowed is not in hand yet
        self.is_set_up = True  # False while what is in hand is not as its settings say yet
        super().__init__(*args, **kwargs)

    # -- Borrowing --------------------------------------------------------------------------

    def _borrow(self, binding: registry.Binding) -> None:
        """Take a connection of that pool's in hand. Raises what the pool does."""
        if self.parked:
            self.unpark()
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
                if in_vain.note(binding.pool, error, work):
                    self._keep_during(binding.pool.tell_timed_out, error)
                raise
            except TooManyRequests as error:
                in_vain.note_refusal(error, work)
                raise
            self._take(binding, connection)
            if loans.waited(connection):  # told here, where a receiver finds it in hand
                self._keep_during(binding.pool.tell_waited, connection)
        except BaseException:
            if connection is None:
                raise
            if self.in_hand is connection:
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
        self.errors_occurred = self.by_hand = self.is_idle = False
        self.noted.add(self.me)
        work = scopes.current.get()
        # Before it is in hand: another thread that looks at what this holds asks for what work.
        self.life = None if work is None else work.life
        # With no call in between: see `_borrow`.
        self.in_hand, self.is_taken, self.is_set_up = connection, True, True
        self.offer = None
        self.turn += 1
        self.noted.add(self.me)  # once more: see `forget_note`
        if binding is not self.terms_of or not apps.ready:
            self._agree_on(binding)
        if self._thread_sharing_count:
            connection._pool.outlive_thread(connection)
        self.isolation_level = connection.connpool_isolation_level
        if work is not None:
            work.borrowers.add(self)
        autocommit = self.settings_dict["AUTOCOMMIT"]
        # Asking the connection costs more than to know what the pool sees to.
        if (
            autocommit
            and (binding.restores or connection.autocommit)
            and (not self.has_foreign_hooks or _SETTING.isdisjoint(self.overridden))
        ):
            self.autocommit = True
        else:
            self._keep_during(self.set_autocommit, autocommit)
        self.comes_soon = loans.since(connection) - self.left_at < loans.SOON
        if self.has_foreign_hooks and "init_connection_state" in self.overridden:
            self.is_set_up = False
            self._keep_during(self._run_foreign_init, connection)
        if connection.connpool_receivers != connection_created.receivers:
            _note_receivers(connection)
            if not connection.connpool_is_new:
                binding.pool.adopt(connection)
        if connection.connpool_is_new:
            self.is_set_up = False
            self._keep_during(self._announce, binding, connection)

    def _agree_on(self, binding: registry.Binding | None) -> None:
        """Keep loans of that pool for as long as its settings or a block of `hold()` say."""
        self.terms_of = binding if apps.ready else None
        option = REQUEST if binding is None else binding.options.release
        self.release = release = self.mode or option
        idle_limit = (binding and binding.options.max_hold_idle) or NEVER
        if not apps.ready:  # an app that queries as it starts, in a thread that may live on
            release, idle_limit = AUTO, min(idle_limit, AFTER_START)
        self.terms = NEVER if release == REQUEST else loans.SETTLED, idle_limit
        self.offers_each = self.release != TRANSACTION and idle_limit == NEVER
        if release != REQUEST and binding is not None:
            binding.pool.expect_offers()

    def set_mode(self, mode: str | None) -> None:
        """Keep connections for so long, whatever the option says; None leaves it to that."""
        self.mode = mode
        self._agree_on(self._binding)
        if self.offer is not None:
            self.offer.agree(*self.terms)

    def _keep_during(self, call: Any, *args: Any) -> None:
        """Call what may use the connection, but must not give it back."""
        self.kept += 1
        try:
            call(*args)
        finally:
            self.kept -= 1

    def _run_foreign_init(self, connection: Any) -> None:
        """Call a foreign `init_connection_state`, which may keep something on this wrapper.

        What it sets that was set when the connection was opened, too, is not this loan's.
        """
        self.in_foreign_init = True
        try:
            with repeating(connection):
                self.init_connection_state()
        finally:
            self.in_foreign_init = False

    def _announce(self, binding: registry.Binding, connection: Any) -> None:
        """Send `connection_created`: what its receivers set up is there for every borrower."""
        connection.connpool_is_new = False
        with recording(connection):
            connection_created.send(sender=self.__class__, connection=self)
        binding.pool.adopt(connection)

    # -- Giving back ------------------------------------------------------------------------

    def _hand_back(self, connection: Any) -> None:
        """Give back what is in hand, unless another is by now, as after a signal handler's query.

        An interrupt may strike anywhere in it. A cursor that is still open would keep the loan
        alive, so it is ended here in any case, unless it is over, and the connection somebody
        else's.
        """
        pool, loan, work = connection._pool, loans.epoch(connection), scopes.current.get()
        goes_on = self.resumes is not None  # the work does, whose end has to find this wrapper
        try:
            # With no call in between: whatever happens below, this wrapper cannot use it again.
            if self.in_hand is not connection:
                return
            self.in_hand, self.offer = None, loans.GIVEN_BACK if goes_on else None
            if not goes_on:
                if not self.in_atomic_block:
                    self.noted.discard(self.me)
                    self.is_idle = self.floor is None
                if work is not None:
                    work.borrowers.discard(self)
            if work is not None and work.in_vain:
                in_vain.forget(pool, work)
            pool.putconn(connection)
        except self.Database.Error:
            with self.wrap_database_errors:
                raise
        except BaseException:
            if self.in_hand is connection:
                self.in_hand = None
            if loans.epoch(connection) == loan:
                with suppress(ValueError):
                    pool.putconn(connection)
            raise

    def surrender(self) -> bool:
        """Give back what is on offer. In any thread: its owner then borrows another.

        False when there is nothing, or somebody was faster.
        """
        offer = self.leaving.offer
        connection = None if offer is None else offer.take()
        if connection is None:
            return False
        connection._pool.putconn(connection)
        return True

    def unpark(self) -> None:
        """Give back what this thread has parked, if it is still there."""
        if self.parked:
            self.parked = False
            self.surrender()

    def _pin(self, why: str) -> None:
        """Note for the status why this loan lasts longer than it should."""
        if self.release != REQUEST:
            loans.pin(self.in_hand, why)

    @property
    def is_of_this_thread(self) -> bool:
        """Whether it was made in this thread, which alone may use it, if it is not shared."""
        return self._thread_ident == get_ident()

    @property
    def is_lent(self) -> bool:
        """Whether the connection in hand belongs to a pool."""
        return getattr(self.in_hand, "_pool", None) is not None


def _note_receivers(connection: Any) -> None:
    """Have `connection_created` sent if one listens to it who was not there when it was new.

    An app that is installed late (in tests) would otherwise never hear of the connection.
    """
    receivers = list(connection_created.receivers)
    known = connection.connpool_receivers
    connection.connpool_receivers = receivers
    if any(receiver not in known for receiver in receivers):
        connection.connpool_is_new = True
