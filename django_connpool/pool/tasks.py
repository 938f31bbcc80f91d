"""Tasks of an event loop as borrowers: in line, with a slot to be looked at, with a loan.

A task may be cancelled wherever it waits, and its loop may stop or be closed: each of these then
gives up what it has, so that it goes to the next in line.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeAlias

from django_connpool.process.cpython import running_loop

from .core import Core
from .line import Waiter
from .prospects import gave_up
from .slot import LOAN, RETURNING, Loans, Slot

Task: TypeAlias = "asyncio.Task[Any]"


class TaskLoans(Loans):
    """One loan of a task's, which ends with it. Its `thread` is a number that no thread has."""

    __slots__ = ("_name", "_task")

    def __init__(self, task: Task, slot: Slot) -> None:
        super().__init__(-id(task), (slot,))
        self._task = weakref.ref(task)
        self._name = ""  # when it has ended

    @property
    def task_name(self) -> str:
        task = self._task()
        return self._name or (_name_of(task) if task is not None else "a task (ended)")

    def coroutine(self) -> Any:
        """What its task runs, to find the line it is at; None when it has ended."""
        task = self._task()
        return None if task is None or task.done() else task.get_coro()

    def begin(self) -> None:
        if (task := self._task()) is not None:
            task.add_done_callback(self.task_ended)

    def end(self) -> None:
        """It is given back, or about to be: the end of the task changes nothing any more."""
        if (task := self._task()) is not None:
            task.remove_done_callback(self.task_ended)

    def task_ended(self, task: Task) -> None:
        """Called by the loop. Unless another task works with the connection at this moment."""
        self._name, self.ended = _name_of(task), True
        for slot in tuple(self):
            if not slot.session.is_busy():
                slot.thread_ended(self)


def _name_of(task: Task) -> str:
    return f"task {task.get_name()}"


class TaskWaiter(Waiter):
    """A task in line. It is woken in its loop, from whatever thread.

    It accepts what it was given under the pool's lock: for while its loop stands still somebody
    may decide that it has left.
    """

    __slots__ = ("_core", "_future", "_loop", "_task")

    def __init__(self, core: Core, task: Task, since: float, tries: int, note: object) -> None:
        super().__init__(since, tries, note)
        self.thread = -id(task)
        self._core = core
        self._task = weakref.ref(task)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    @property
    def task_name(self) -> str:
        task = self._task()
        return _name_of(task) if task is not None else "a task (ended)"

    def coroutine(self) -> Any:
        task = self._task()
        return task.get_coro() if task is not None else None

    def again(self) -> TaskWaiter:
        task = asyncio.current_task()
        assert task is not None
        return TaskWaiter(self._core, task, self.since, self.tries, self.note)

    def wake(self) -> None:
        """Under the pool's lock. Who waits in a loop that does not run waits for nothing."""
        if running_loop() is self._loop:
            self._open()
            return
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._open)
        self.leave_if_stopped()

    def leave_if_stopped(self) -> None:
        """Under the pool's lock."""
        if not self.left and not self._loop.is_running():
            self.left = True
            self._core.put(Core.audit)  # by which what it was given goes to the next

    def _open(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait_its_turn(self, seconds: float) -> None:
        """Wait until served, at most so long."""
        timer = self._loop.call_later(max(0.0, seconds), self._open)
        try:
            await self._future
        finally:
            timer.cancel()


class Glance:
    """What a task has while it looks at an idle slot: given up when the block ends badly."""

    __slots__ = ("_core", "_settle", "slot")

    def __init__(self, core: Core, settle: Callable[[], None]) -> None:
        self._core = core
        self._settle = settle
        self.slot: Slot | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            return
        self._give_up(kind)
        # Not when an interrupt has just struck, or a coroutine is being collected, which may be
        # inside any lock.
        if isinstance(error, (Exception, asyncio.CancelledError)):
            self._settle()
        else:
            self._core.ticket.now()

    def _give_up(self, why: type[BaseException]) -> None:
        if self.slot is not None and self.slot.state is LOAN:
            self.slot.state = RETURNING
        self._core.inbox.append((Core.audit,))


class Place(Glance):
    """What a task has before it has a loan: a place in line, or a slot that it looks at.

    Both are given up when it leaves the block with an error, a cancellation or an interrupt; and
    when another interrupt keeps it from that, as it is collected.
    """

    # Of the class, for an interrupt may strike before there is more of it.
    slot: Slot | None = None
    errand: Errand | None = None  # or it has the slot
    waiter: TaskWaiter | None = None
    is_over = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.is_over = kind is None
        super().__exit__(kind, error, _)

    def __del__(self) -> None:
        # A finalizer: it may run inside any lock, so it takes none.
        if not self.is_over and (self.slot or self.errand or self.waiter):
            self._give_up(KeyboardInterrupt)
            self._core.ticket.now()

    def _give_up(self, why: type[BaseException]) -> None:
        super()._give_up(why)
        if self.errand is not None:
            self._core.inbox.append((Errand.was_left, self.errand))
        if self.waiter is not None:
            self.waiter.left = True
            self._core.inbox.append((gave_up, self.waiter, why))
        self.is_over = True


class Outcome:
    """What a thread tells the loop of who waits for it, when its work has ended, however it has."""

    __slots__ = ("_loop", "future", "is_lost", "value")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Without a loop nobody waits."""
        self._loop = loop
        self.future: asyncio.Future[Any] | None = None
        self.value: Any = None
        self.is_lost = False  # the loop is closed
        if loop is not None:
            self.future = loop.create_future()
            self.future.add_done_callback(look_at_error)

    def __enter__(self) -> Outcome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if self._loop is not None and self.future is not None:
            try:
                self._loop.call_soon_threadsafe(tell, self.future, self.value, error)
            except RuntimeError:
                self.is_lost = True
        return isinstance(error, (Exception, SystemExit))  # which he is told


class Errand:
    """What a thread finds out about a slot that is its task's, and not lent yet.

    The thread has the slot meanwhile. When its task has gone, it gives the slot up itself; one
    that begins only then finds nothing to do.
    """

    def __init__(self, core: Core, slot: Slot, work: Callable[[], bool]) -> None:
        self._core = core
        self._work = work
        self._outcome = Outcome(asyncio.get_running_loop())
        self._loan = slot.loan
        # Guarded by the core's lock:
        self._slot: Slot | None = slot  # None once it is given up
        self._is_at_it = False
        self._is_missed = False  # its task has gone

    def run(self) -> None:
        with self._core.lock:
            if self._slot is None:
                return
            self._is_at_it = True
        with self, self._outcome as outcome:
            outcome.value = self._work()

    async def outcome(self) -> bool:
        assert self._outcome.future is not None
        return bool(await self._outcome.future)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        with self._core.lock:
            self._is_at_it = False
            if self._is_missed or self._outcome.is_lost:
                self._give_up()

    @staticmethod
    def was_left(core: Core, errand: Errand) -> None:
        """Under the lock."""
        errand._is_missed = True
        if not errand._is_at_it:
            errand._give_up()

    def _give_up(self) -> None:
        """Under the lock. It is done again when it was interrupted, and then does no other harm."""
        slot = self._slot
        if slot is not None and slot.loan == self._loan:
            if slot.state is LOAN and slot.loans is None:
                slot.state = RETURNING
            self._core.audit()
        self._slot = None


def tell(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    """In the loop of who waits for it, if he still does."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)


def look_at_error(future: asyncio.Future[Any]) -> None:
    """So that asyncio does not complain of an error that nobody has waited for."""
    if not future.cancelled():
        future.exception()
