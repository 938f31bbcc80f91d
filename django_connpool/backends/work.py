"""Where one piece of work ends and the next begins, for the wrappers that both use.

What is at rest goes back in between. An interrupt (Ctrl-C, a task's time limit, a greenlet that is
killed) can strike in `Atomic.__enter__` or `Atomic.__exit__` of Django's, and leave a wrapper in an
atomic block that nobody will end: all that follows would run in it, and be lost without a word. So
work that begins outside of such a block ends outside of one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator, suppress
from typing import Any

from django_connpool import scopes
from django_connpool.pool import explain
from django_connpool.process import bursts
from django_connpool.process.cpython import COUNTS, ONE_VARIABLE, count

from . import loans
from .offering import Offering

logger = bursts.logger("loans")
sessions_logger = bursts.logger("sessions")


def _of_a_list_alone() -> int:
    """What is counted of an object that only an element of a list refers to."""
    only = [object()]
    return count(only[0])


_ONLY_THE_LIST = _of_a_list_alone()


class Working(Offering):
    """What a wrapper does at the beginning and at the end of some work."""

    is_heard_closing: Callable[[], bool]  # see wrapper.py

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The work in which the outermost atomic block was begun.
        self.atomic_in: scopes.Life | None = None
        # It was an atomic block, not by hand, that last changed it.
        self.autocommit_by_atomic = False
        super().__init__(*args, **kwargs)

    # -- Beginning --------------------------------------------------------------------------

    def before_work(self) -> None:
        """Some work begins in this thread: give back, unless something else goes on."""
        if self.in_hand is None and self.offer is None and not self.in_atomic_block:
            self.resumes = None
            self.noted.discard(self.me)
            self.is_idle = self.floor is None
            return
        self.end_lost_block()
        if self.in_atomic_block:
            return
        was_offered = self.stop_resuming()
        # No variable here refers to the connection: it is counted what does.
        if self.is_lent and (was_offered or not self._is_needed()):
            self._tell_of_state()
            self.close()

    def _tell_of_state(self) -> None:
        """What was done to the session outside ends with it, which its author may not know.

        A wrapper that is told of that does it again.
        """
        given = loans.given(self.in_hand)
        if given and not self.has_foreign_hooks:
            sessions_logger.warning(
                "%s: what was done to a session (%s) ends where other work begins: put that in the "
                "same scope(), or both in a block of pinned()",
                self.alias,
                ", ".join(given),
                extra={"pool": self.alias},
            )

    def _is_needed(self) -> bool:
        """Whether a transaction, a server-side cursor or a block uses this very connection."""
        connection = self.in_hand
        if self.kept or loans.under_way(connection, self.settings_dict["AUTOCOMMIT"]):
            return True
        # Counted only then: other threads of the pool look at connections, too, for a moment.
        return self.by_hand and COUNTS and count(connection) > ONE_VARIABLE + 1

    # -- Ending from elsewhere ----------------------------------------------------------------

    def end_from_afar(self, life: scopes.Life) -> bool:
        """Some work has ended: give back what this has on offer for it. In any thread.

        Also in an event loop's. False when that is for its own thread to do: something is in hand,
        or to give back takes time, or others want to hear of it.
        """
        if self.in_hand is not None:
            return False
        offer: Any = self.offer
        is_offered = bool(offer)
        if is_offered and (self.is_heard_closing() or loans.takes_time(offer)):
            return False
        if self.life is not life:
            return True  # its thread has begun other work meanwhile
        if is_offered and not self.surrender():
            return False  # its thread has taken it up
        self.resumes = None
        # What somebody has taken may be on its way into its thread's hand, unless it is back: that
        # stays noted.
        if (
            is_offered
            or offer is None
            or offer is loans.GIVEN_BACK
            or not loans.is_of_its_loan(offer)
        ):
            self.forget_note()
        return True

    def forget_note(self) -> None:
        """This holds nothing, so that nobody need look at it. In any thread.

        Its own may be about to borrow, for what the work has left running there. It notes this
        before it has something in hand, and once more after that.
        """
        if not self.in_atomic_block:
            self.noted.discard(self.me)
        if self.in_hand is not None or self.offer or self.resumes is not None:
            self.noted.add(self.me)

    # -- Atomic blocks that nobody will end ---------------------------------------------------

    def note_atomic(self) -> None:
        """Called before an outermost atomic block begins."""
        self.atomic_in = life = scopes.present_life()
        if life is not None:
            life.has_blocks = True  # first: who ends the work from here on sees it
            if life.ended:
                self.atomic_in = None  # it is of no work that would end it

    def end_blocks_of(self, life: scopes.Life) -> None:
        """Work ends in this thread: so does an atomic block that was begun in it."""
        if self.in_atomic_block and self.atomic_in is life:
            self._start_anew(life.note)

    def end_lost_block(self) -> None:
        """End an atomic block that nobody will end, if this is in one. For the owner's thread."""
        if self._is_in_lost_block():
            life = self.atomic_in
            self._start_anew(None if life is None else life.note)

    def _is_in_lost_block(self) -> bool:
        if not self.in_atomic_block:
            # Between the first statement of `Atomic.__enter__` and its last, or of `__exit__`.
            return (
                self.autocommit_by_atomic
                and self.in_hand is not None
                and self.autocommit != self.settings_dict["AUTOCOMMIT"]
            )
        life, blocks = self.atomic_in, self.atomic_blocks
        if life is not None and life.is_over_here():
            return True
        if not blocks:
            return True  # what comes before and after the list is changed
        # A `with` statement that goes on refers to its block, and so does a test case.
        return COUNTS and count(blocks[0]) <= _ONLY_THE_LIST

    def _start_anew(self, note: str | None) -> None:
        """Close the session, whose transaction is rolled back, and know nothing of it any more.

        When this is interrupted, too, the next work finds what is left.
        """
        connection = self.in_hand
        logger.error(
            "%s: %s has left an atomic block that was never ended, as an interrupt in the middle "
            "of its beginning or end does; what was not committed is rolled back, and the session "
            "closed",
            self.alias,
            note or explain.thread_name(threading.get_ident()),
            extra={"pool": self.alias},
        )
        if connection is not None:
            with suppress(Exception):
                connection.close()
        self.run_on_commit = []
        self.run_commit_hooks_on_set_autocommit_on = False
        self.rollback_exc = None
        self.in_atomic_block = self.needs_rollback = self.closed_in_transaction = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.close()

    # -- Threads ---------------------------------------------------------------------------

    def inc_thread_sharing(self) -> None:
        """As Django's; and what is on loan is not taken back with the thread that borrowed it."""
        self.unpark()
        if self.offer is not None and self.in_hand is None:
            self._take_up()
        super().inc_thread_sharing()
        connection = self.in_hand
        pool = getattr(connection, "_pool", None)
        if pool is not None:
            pool.outlive_thread(connection)

    def dec_thread_sharing(self) -> None:
        super().dec_thread_sharing()
        self.release_after_use()

    # -- Wrappers of statements -------------------------------------------------------------

    def execute_wrapper(self, wrapper: Callable[..., Any]) -> _Pushed:
        """As Django's; popped also when an interrupt strikes while the block ends."""
        return _Pushed(self.execute_wrappers, wrapper)


class _Pushed(ContextDecorator):
    """A block in which a wrapper is called around statements. Collected, it is over as well."""

    def __init__(self, stack: list[Any], wrapper: Callable[..., Any]) -> None:
        self._stack = stack
        self._wrapper = wrapper
        self._is_pushed = False

    def _recreate_cm(self) -> _Pushed:
        return _Pushed(self._stack, self._wrapper)

    def __enter__(self) -> None:
        self._is_pushed = True  # first: then the interrupt may come
        self._stack.append(self._wrapper)

    def __exit__(self, *exc_info: object) -> None:
        self._pop()

    def __del__(self) -> None:
        if self._is_pushed:
            self._pop()

    def _pop(self) -> None:
        """Take its own off the stack, whatever an interrupt has left above it."""
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is self._wrapper:
                del stack[index]
                break
        self._is_pushed = False


def holds_outside_of(wrapper: Any, outer: scopes.Scope | None) -> bool:
    """A hint, from any thread, whether a wrapper has something to do before work begins."""
    # In this order: a borrower notes for what work it borrows before it has anything.
    if (
        not wrapper.in_atomic_block
        and wrapper.in_hand is None
        and not wrapper.offer
        and wrapper.resumes is None
    ):
        return False
    life = _life(wrapper)
    return life is None or life.is_over or (outer is not None and life is outer.life)


def is_of_other_work(wrapper: Any, outer: scopes.Scope | None) -> bool:
    """Whether other work than the present goes on with what it holds, as another task's does."""
    life = _life(wrapper)
    return life is not None and life.goes_on and (outer is None or life is not outer.life)


def _life(wrapper: Any) -> scopes.Life | None:
    """Of the work that it holds something for."""
    life: scopes.Life | None = wrapper.atomic_in if wrapper.in_atomic_block else wrapper.life
    return life
