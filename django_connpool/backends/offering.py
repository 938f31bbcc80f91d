"""Between two statements a connection at rest is offered to others, or given back: see `release`.

At rest is also a session after a statement in autocommit mode: psycopg has read all of the answer
then, so that rows are fetched from memory when others have the connection. A session that was given
state stays with its borrower until the work ends: what sees changes for cleaning sees them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any
from weakref import ref

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.utils.asyncio import async_unsafe

from django_connpool import holders, scopes
from django_connpool.errors import PoolClosed
from django_connpool.process.background import NEVER
from django_connpool.process.cpython import COUNTS, ONE_VARIABLE, count, running_loop
from django_connpool.readers import REQUEST, TRANSACTION
from django_connpool.registry import Binding
from django_connpool.session.foreign import Connection

from . import djangos, loans
from .holding import Holding

# Seconds on offer, after which it is looked whether the connection still lives. (While it is held
# nobody looks either.)
TRUSTED = 0.001
# Seconds that a loan may last while others wait, for the sake of statements that follow each other
# at once: to give back after each would cost a change of threads each.
LONGEST = 0.05
# Seconds since somebody in line got what came back, in which who pauses between statements gives
# back at once: an offer would cost its place a millisecond each time, and somebody a look.
CROWDED = 0.1


class Offering(Holding):
    """Offers what is at rest, takes it up again, or borrows another."""

    # No class between this one and Django's has a way of its own to connect; so calls can be saved.
    connects_as_django = False
    creates_as_django = False  # the same of `create_cursor`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.leaving = loans.Leaving()
        self.noted = noted = holders.of_this_thread()
        self.me = ref(self, noted.discard)
        super().__init__(*args, **kwargs)

    # -- The next statement -----------------------------------------------------------------

    def connect_for_a_statement(self) -> None:
        """Have a connection in hand: the one on offer, or another."""
        if self.in_hand is not None or (self.offer is not None and self._take_up()):
            return
        if self.parked and self._go_on_with_parked():
            return
        binding = None if self.in_atomic_block else self.resumes  # read once: others may end it
        if binding is not None and self.offer is not None:
            # What was taken had been on offer for that long; what was given back, perhaps not.
            was_taken = self.offer is not loans.GIVEN_BACK
            self.pauses = was_taken or monotonic() - self.went_at >= loans.SETTLED
            if was_taken and self.has_foreign_hooks:
                self._close_between()  # there is nothing left, but they are told
                self.resumes = binding
        hooks, self.offer = self.run_on_commit, None
        try:
            if binding is not None and not self.has_foreign_hooks:
                self._resume(binding)
            else:
                self._connect_as_told()
        except Exception as error:
            if binding is not None and self.in_hand is None:
                self._go_on_later(binding)
            if isinstance(error, self.Database.Error):
                # Only now, because it costs two calls, and errors are rare.
                with self.wrap_database_errors:
                    raise
            raise
        if binding is not None:  # as if the connection had been held; the pool may be another
            self.run_on_commit, self.resumes = hooks, self._binding

    def _connect_as_told(self) -> None:
        """Have Django and classes of others connect, which may read `connection`."""
        if self.connects_as_django and BaseDatabaseWrapper.ensure_connection is djangos.ENSURE:
            self.connect()
        else:
            self.ensure_connection()
            self.by_hand = False  # that was Django, or its tests

    def _close_between(self) -> None:
        """Close, as classes of others want to see it; what waits for a commit goes on waiting."""
        hooks = self.run_on_commit
        self.close()
        self.run_on_commit = hooks

    def _take_up(self) -> bool:
        """Take the connection out of the offer, unless somebody else has, or it has died.

        Nor if it is there for other work, with which this takes turns in its thread, as async work
        does: what that does next to the session would be found by this, and the other way round.
        """
        offer: Any = self.offer
        try:
            connection = self.in_hand = offer.pop()
        except IndexError:
            return False
        slot, now = offer.slot, monotonic()
        since, slot.turned_at = slot.turned_at, now
        work = scopes.current.get()
        if (None if work is None else work.life) is self.life and (
            now - since < TRUSTED or loans.is_alive(connection)
        ):
            return True
        self._let_go(connection)
        return False

    def _go_on_with_parked(self) -> bool:
        """Begin a loan with what this thread has parked, if it is there and fit."""
        offer, binding = self.leaving.offer, self._binding
        if not offer or binding is None or not binding.suits(self) or running_loop() is not None:
            return False
        # First, so that after an interrupt the end of the work finds what is in hand.
        self.is_idle = False
        self.noted.add(self.me)
        work = scopes.current.get()
        if work is not None:
            work.borrowers.add(self)
            self.life = work.life
        try:
            ended = offer.claim()
            connection = self.in_hand = offer.pop()
        except IndexError:
            return False
        self.parked = False
        slot = offer.slot
        if (
            connection.connpool_receivers != connection_created.receivers
            or self.terms_of is not binding
            or not binding.pool.parking.end(slot, ended)
        ):
            self._hand_back(connection)
            return False
        slot.patience, slot.idle_limit = self.terms  # a block of `hold()` may have begun, or ended
        self.comes_soon = slot.since - ended < loans.SOON
        # As `_take` does. The rest of it is as it was left.
        self.turn += 1
        self.errors_occurred = self.by_hand = False
        self.isolation_level = connection.connpool_isolation_level
        self.offer, self.resumes = offer, binding
        self.noted.add(self.me)  # once more: see `forget_note`
        return True

    def end_offered(self, offer: loans.Offer) -> None:
        """Work ends with its connection on offer: leave it there as parked, or give it back."""
        binding = self.resumes
        if binding is not None and self.comes_soon and binding.pool.parking.begin(offer):
            self.parked = True
        else:
            self.surrender()
            self.left_at = monotonic()
        # Last: until then whoever ends the work finds it after an interrupt.
        self.offer = self.resumes = self.life = None
        self.run_on_commit = []
        self.noted.discard(self.me)
        self.is_idle = self.floor is None

    def _resume(self, binding: Binding) -> None:
        """Borrow again in the middle of some work, as if the connection had been held.

        So the settings are not looked at, and hooks that wait for a commit go on waiting.
        """
        if running_loop() is not None:
            self._refuse_event_loops()
        try:
            self._borrow(binding)
        except PoolClosed:
            self.connect()  # to the pool that is now the right one

    @async_unsafe
    def _refuse_event_loops(self) -> None:
        """Raise SynchronousOnlyOperation. Around `connect` it would cost an exception each time."""

    def borrow_to_look(self) -> Any:
        """For who reads `connection` between two statements."""
        if not self.is_of_this_thread and not self._thread_sharing_count:
            return None
        if self.resumes is None and not self.offer:  # another thread has ended the work
            return None
        self.connect_for_a_statement()
        self.by_hand = True
        self._pin("taken by reading `connection`")
        return self.in_hand

    # -- The end of a statement -------------------------------------------------------------

    def end_statement(self) -> None:
        """As `release_if_free`, at once where nothing is out of the ordinary.

        What is at rest, `is_at_rest` says. This only knows when there is nothing to ask, and leaves
        all else to it. Nearly every statement ends here, so it calls nothing that it can do itself:
        of 160 Python instructions that a query cost over a persistent connection, that saves 60.
        """
        connection, offer = self.in_hand, self.offer
        if (
            connection is None
            or self.in_atomic_block
            or not self.offers_each
            or self.kept
            or self.by_hand
            or self.pauses
            or self._thread_sharing_count
            or (offer is None and getattr(connection, "_pool", None) is None)
        ):
            self.release_if_free()
            return
        slot = connection._slot
        session = slot.session
        known, touch = session.changes, session.original.touch
        now = monotonic()
        if (
            session.pgconn.transaction_status
            or known.dirt
            or known.called
            or touch.touched
            or touch.switched
            or (now - slot.since >= LONGEST and loans.line(connection))
        ):
            self.release_if_free()
            return
        if offer is None or offer.slot is not slot or offer.ended:
            offer = self._make_offer(slot)
        # As `_offer`.
        slot.pinned = None
        slot.turned_at = now
        self.in_hand = None
        offer.append(connection)
        if (life := self.life) is not None and life.ended:
            self.surrender()
            self.resumes = None

    def release_if_free(self) -> None:
        """Offer the connection or give it back, unless something depends on it."""
        connection = self.in_hand
        if connection is None or self.in_atomic_block or self.kept:
            return
        if getattr(connection, "_pool", None) is None:
            return
        slot = loans.of(connection)
        autocommit = self.settings_dict["AUTOCOMMIT"]
        if self._thread_sharing_count:  # another thread may be about to use it
            self._pin("shared by threads")
        elif self.by_hand and not (
            COUNTS
            and count(connection) == ONE_VARIABLE + 1  # and the wrapper's
            and _is_alone_behind(connection)
        ):
            self._pin("taken by reading `connection`")
        elif not loans.is_at_rest(slot.session, connection, autocommit):
            self._keep_or_end(connection, autocommit)
        elif (
            self.release == TRANSACTION
            or self.pauses
            or loans.line(connection)
            or (self.life is not None and self.life.ended)
        ) and self._is_to_go(connection):
            self._let_go(connection)
        else:
            self._offer(connection, slot)

    def _keep_or_end(self, connection: Any, autocommit: bool) -> None:
        """What is not at rest stays; but what is dead goes, and what ended work has set."""
        has_ended = self.life is not None and self.life.ended
        # What statements have left stays as long as the loan: it is put in words once.
        left = self.turn, loans.dirt(connection)
        if left == self.stays_for and not has_ended and not connection.pgconn.transaction_status:
            return
        ties = loans.ties(connection, autocommit)
        if not ties or (has_ended and not loans.under_way(connection, autocommit)):
            self._let_go(connection)
        else:
            self._pin(", ".join(ties))
            self.stays_for = left if loans.given(connection) else None

    def _is_to_go(self, connection: Any) -> bool:
        """Whether it goes back at once: offering it would keep others waiting, or for nothing."""
        if self.life is not None and self.life.ended:
            return True
        if self.release == REQUEST:
            self.pauses = False
            return False
        line, now = loans.line(connection), monotonic()
        if self.pauses:
            self.pauses = bool(line) or now - loans.served(connection) < CROWDED
            if self.pauses:
                return True
        if line:
            return bool(now - loans.since(connection) >= LONGEST)
        return self.release == TRANSACTION

    def _offer(self, connection: Any, slot: Any) -> None:
        """Put it where others may take it. An interrupt leaves it here or there."""
        offer = self.offer
        if offer is None or offer.slot is not slot or offer.ended:
            offer = self._make_offer(slot)
        slot.pinned = None
        self.by_hand = False
        slot.turned_at = now = monotonic()
        self.in_hand = None
        offer.append(connection)
        if slot.idle_limit < NEVER:
            connection._pool.offers_until(now + slot.idle_limit)
        life = self.life
        if life is not None and life.ended:  # in another thread, which has not seen the offer
            self.surrender()
            self.resumes = None

    def _make_offer(self, slot: Any) -> loans.Offer:
        """Have an offer of this loan, and not one that an interrupt has left as parked."""
        if self.offer is not None:  # of a signal handler that came by as this one was taken up
            self.surrender()
        offer = self.offer = self.leaving.offer = loans.Offer(slot, *self.terms)
        self.resumes = self.resumes or self._binding
        return offer

    def _let_go(self, connection: Any) -> None:
        """Give back, and go on later as if the connection had been held."""
        work = scopes.current.get()
        resumes = self.resumes or self._binding
        if self.has_foreign_hooks:
            self._close_between()
        else:
            self._hand_back(connection)
        self._go_on_later(resumes)
        self.went_at = monotonic()
        if work is not None:
            work.borrowers.add(self)

    def _go_on_later(self, binding: Binding | None) -> None:
        """Hold nothing, and have the next statement go on from that pool, until the work ends."""
        self.is_idle = False
        self.noted.add(self.me)
        self.offer, self.resumes = loans.GIVEN_BACK, binding
        if self.life is not None and self.life.ended:
            self.resumes = None  # who has ended it may not have seen this one

    def release_after_use(self) -> None:
        """As `release_if_free`, in whichever thread: the garbage collector ends things in any."""
        if self.is_of_this_thread and not self._thread_sharing_count:
            self.release_if_free()

    def stop_resuming(self) -> bool:
        """Some work has ended: what comes next looks at the settings, and borrows anew.

        What is on offer is in hand then, to be given back, and True is returned. For the owner's
        thread.
        """
        self.resumes = None
        self.parked = False
        offer = self.leaving.offer  # there it is, whatever an interrupt has kept from this wrapper
        was_offered = False
        if offer is not None and self.in_hand is None:
            self.in_hand = offer.take_up()
            was_offered = self.in_hand is not None
        self.offer = None
        return was_offered

    # -- Keeping ----------------------------------------------------------------------------

    @contextmanager
    def keeping(self, why: str) -> Iterator[None]:
        """Keep the connection that is at hand, or is borrowed in this block, until its end."""
        self.kept += 1
        try:
            if self.in_hand is not None:
                self._pin(why)
            yield
        finally:
            self.kept -= 1
            self.release_after_use()


def _is_alone_behind(connection: Any) -> bool:
    """Whether nobody, such as a cursor, has what is behind an agent's proxy."""
    while not issubclass(type(connection), Connection):
        try:
            connection = connection.__wrapped__
        except AttributeError:
            return True
        if count(connection) != ONE_VARIABLE + 1:  # and the proxy's
            return False
    return True
