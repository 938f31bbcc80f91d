"""Between two statements a connection at rest is offered to others, or given back: see `release`.

At rest is also a session after a statement in autocommit mode: psycopg has read all of the answer
then, so that rows are fetched from memory when others have the connection. A session that was given
state stays with its borrower until the work ends: what sees changes for cleaning sees them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from time import monotonic
from typing import Any

from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from django_connpool import scopes
from django_connpool.conf import AUTO, REQUEST, TRANSACTION
from django_connpool.errors import PoolClosed
from django_connpool.process.background import NEVER
from django_connpool.process.cpython import COUNTS, ONE_VARIABLE, count, running_loop
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
# Seconds on offer, after which what an app has borrowed as it started goes back.
AFTER_START = 0.2


class Offering(Holding):
    """Offers what is at rest, takes it up again, or borrows another."""

    # No class between this one and Django's has a way of its own to connect; so calls can be saved.
    connects_as_django = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.leaving = loans.Leaving()  # with this wrapper
        super().__init__(*args, **kwargs)

    # -- The next statement -----------------------------------------------------------------

    def connect_for_a_statement(self) -> None:
        """Have a connection in hand: the one on offer, or another."""
        if self.in_hand is not None or (self.offer is not None and self._take_up()):
            return
        binding = self.resumes  # looked at once: another thread may end the work
        resumes = binding is not None and not self.in_atomic_block
        hooks = self.run_on_commit
        if self.offer is not None:
            if resumes and self.tells and self.offer is not loans.GIVEN_BACK:
                self.close()  # of which there is nothing left, but they are told
            self.offer = loans.GIVEN_BACK if resumes else None
        try:
            if binding is not None and resumes and not self.tells:
                self._resume(binding)
            elif (
                self.connects_as_django and BaseDatabaseWrapper.ensure_connection is djangos.ENSURE
            ):
                self.connect()
            else:
                self.ensure_connection()
        except self.Database.Error:
            # Only now, because it costs two calls, and errors are rare.
            with self.wrap_database_errors:
                raise
        finally:
            if resumes:  # as if the connection had been held
                self.run_on_commit = hooks
                self.resumes = self._binding

    def _take_up(self) -> bool:
        """Take the connection out of the offer, unless somebody else has, or it has died."""
        if running_loop() is not None:
            self._refuse_event_loops()
        try:
            connection = self.in_hand = self.offer.pop()  # type: ignore[union-attr]
        except IndexError:
            return False
        self.errors_occurred = False
        if monotonic() - loans.of(connection).offered_at < TRUSTED or loans.is_alive(connection):
            return True
        self._let_go(connection)
        return False

    def _resume(self, binding: Binding) -> None:
        """Borrow again in the middle of some work, as if the connection had been held.

        So the settings are not looked at, and hooks that wait for a commit go on waiting.
        """
        if running_loop() is not None:
            self._refuse_event_loops()
        try:
            self._borrow(binding)
        except PoolClosed:  # what follows finds the pool that is now the right one
            self.resumes = None
            self.connect()

    @async_unsafe
    def _refuse_event_loops(self) -> None:
        """Raise SynchronousOnlyOperation. Around `connect` it would cost an exception each time."""

    def borrow_to_look(self) -> Any:
        """For who reads `connection` between two statements."""
        if self._thread_ident != get_ident() and not self._thread_sharing_count:
            return None
        if self.resumes is None:  # another thread has ended the work
            self.offer = None
            return None
        self.connect_for_a_statement()
        self.by_hand = True
        self._pin("taken by reading `connection`")
        return self.in_hand

    # -- The end of a statement -------------------------------------------------------------

    def release_if_free(self) -> None:
        """Offer the connection or give it back, unless something depends on it."""
        connection = self.in_hand
        if (
            connection is None
            or self.in_atomic_block
            or self.kept
            or getattr(connection, "_pool", None) is None
        ):
            return
        if self._thread_sharing_count:  # another thread may be about to use it
            self._pin("shared by threads")
        elif self.by_hand and not (
            COUNTS
            and count(connection) == ONE_VARIABLE + 1  # and the wrapper's
            and _is_alone_behind(connection)
        ):
            self._pin("taken by reading `connection`")
        elif not loans.is_at_rest(connection, self.settings_dict["AUTOCOMMIT"]):
            if self.release != REQUEST:
                self._pin(", ".join(loans.ties(connection, self.settings_dict["AUTOCOMMIT"])))
        elif connection.closed or self._is_to_go(connection):
            self._let_go(connection)
        else:
            self._offer(connection)

    def _is_to_go(self, connection: Any) -> bool:
        """Whether it goes back at once: offering it would keep others waiting, or for nothing."""
        if self.life is not None and self.life.ended:
            return True
        if self.release == REQUEST:
            return False
        if connection._pool.is_awaited:
            return bool(monotonic() - loans.since(connection) >= LONGEST)
        return self.release == TRANSACTION

    def _offer(self, connection: Any) -> None:
        """Put it where others may take it. An interrupt leaves it here or there."""
        offer = self.offer
        if offer is None:
            offer = self.offer = self.leaving.offer = loans.Offer(loans.of(connection))
            offer.agree(*self._terms())
            self.resumes = self.resumes or self._binding
        slot = loans.of(connection)
        slot.pinned = None
        self.by_hand = False
        slot.offered_at = now = monotonic()
        self.in_hand = None
        offer.append(connection)
        if slot.idle_limit < NEVER:
            connection._pool.offers_until(now + slot.idle_limit)
        life = self.life
        if life is not None and life.ended:  # in another thread, which has not seen the offer
            self.surrender()

    def _terms(self) -> tuple[float, float]:
        """Seconds, after which others may have it, and after which it goes back in any case."""
        binding = self._binding
        idle_limit = NEVER if binding is None else binding.options.max_hold_idle or NEVER
        release = self.release
        if not apps.ready:  # an app that queries as it starts, in a thread that may live on
            release, idle_limit = AUTO, min(idle_limit, AFTER_START)
        return NEVER if release == REQUEST else loans.SETTLED, idle_limit

    def _let_go(self, connection: Any) -> None:
        """Give back, and go on later as if the connection had been held."""
        work = scopes.current.get()
        resumes = self.resumes or self._binding
        if self.tells:
            hooks = self.run_on_commit
            self.close()
            self.run_on_commit = hooks
        else:
            self._hand_back(connection)
        self.offer, self.resumes = loans.GIVEN_BACK, resumes
        if work is not None:
            work.borrowers.add(self)

    def surrender(self) -> None:
        """Give back what is on offer. In any thread: its owner then borrows another."""
        offer = self.offer
        try:
            connection = offer.pop() if offer else None
        except IndexError:
            return
        if connection is not None:
            connection._pool.putconn(connection)

    def release_after_use(self) -> None:
        """As `release_if_free`, in whichever thread: the garbage collector ends things in any."""
        if self._thread_ident == get_ident() and not self._thread_sharing_count:
            self.release_if_free()

    def stop_resuming(self) -> None:
        """Some work has ended: what comes next looks at the settings, and borrows anew.

        What is on offer is in hand then, to be given back. For the owner's thread.
        """
        self.resumes = None
        offer, self.offer = self.offer, None
        if offer and self.in_hand is None:
            with suppress(IndexError):
                self.in_hand = offer.pop()

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

    def set_mode(self, mode: str | None) -> None:
        """Keep connections for so long, whatever the option says; None leaves it to that."""
        self.mode = mode
        binding = self._binding
        self.release = mode or (binding.options.release if binding is not None else None)
        if self.offer is not None:
            self.offer.agree(*self._terms())


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
