"""What the running code is working on: a request, a task, or whatever its author calls it.

It tells the reports what a loan is for, and whoever ends the work what there is to give
back. It travels in a context variable, so that it follows a request into the threads in
which an async view does its queries.
"""

from __future__ import annotations

import asyncio
import weakref
from contextvars import ContextVar
from threading import get_ident, local
from typing import Any

from .process.cpython import running_loop


class Life:
    """Whether some work still goes on. What the work has used may refer to this for long."""

    __slots__ = ("_block", "ended", "has_blocks", "note", "thread")

    def __init__(self, note: str | None, block: object = None) -> None:
        self.note = note
        self.ended = False
        self.has_blocks = False  # an atomic block was begun in it
        # In which it ends; what begins in an event loop ends in a thread that turns out then.
        self.thread = get_ident() if running_loop() is None else 0
        # What stands for it on the stack of its thread, and goes when an interrupt strikes before
        # its end has said so.
        self._block = None if block is None else weakref.ref(block)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or lost its end by an interrupt."""
        return self.ended or (self._block is not None and self._block() is None)

    @property
    def goes_on(self) -> bool:
        """Whether some code is known to be in the middle of it."""
        return not self.ended and self._block is not None and self._block() is not None

    def is_over_here(self) -> bool:
        """Whether none of its code runs any more in this thread. In others some may."""
        return self.thread == get_ident() and self.is_over


class Scope:
    """One piece of work: its name in reports, and who borrowed for it."""

    __slots__ = ("borrowers", "ended", "has_fault", "in_vain", "life", "note", "task")

    def __init__(self, note: str | None, block: object = None) -> None:
        self.note = note  # its name; see __str__
        self.borrowers: set[Any] = set()  # database wrappers that hold a connection, or held one
        # Pools it has waited for in vain, and what they said. None: one that did not let it wait.
        self.in_vain: dict[Any, BaseException] = {}
        self.has_fault = False  # it has failed for another reason
        self.ended = False  # nobody will give back what is borrowed for it from now on
        self.task: weakref.ref[asyncio.Task[Any]] | None = None  # that does it, if one does
        self.life = Life(note, block)

    def holders(self) -> list[Any]:
        """Those of its borrowers whose present loan is for it, or was when it was taken from them.

        Between two of its steps a thread, and its database wrapper, may have done other work.
        """
        return [wrapper for wrapper in list(self.borrowers) if wrapper.life is self.life]

    def end(self) -> None:
        """Who borrows from here on sees to it that it comes back."""
        self.ended = self.life.ended = True

    def __str__(self) -> str:
        """What a pool calls a loan that is made for it: a path must not forge a line of a log."""
        return "".join(c if c.isprintable() else "?" for c in self.note or "")

    def is_of_this_task(self) -> None:
        """Note which task does the work: what it is at, no thread's stack tells."""
        try:
            task = asyncio.current_task()
        except RuntimeError:  # another library's event loop
            return
        self.task = weakref.ref(task) if task is not None else None

    def coroutine(self) -> Any:
        """What runs in its task; None when it has none, or is over."""
        task = self.task() if self.task is not None else None
        return task.get_coro() if task is not None and not task.done() else None


current: ContextVar[Scope | None] = ContextVar("django_connpool_scope", default=None)


class _Request(local):
    life: Life | None = None


# This thread's, by Django's signals: for requests that no middleware of ours has seen.
request = _Request()


def present_life() -> Life | None:
    """That of the present work, or else of this thread's request."""
    work = current.get()
    return request.life if work is None else work.life


class standing:
    """A block that is some work, and what stands for it on the stack: so it is not reused."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __enter__(self) -> Scope:
        return Scope(self.name, self)

    def __exit__(self, *exc_info: object) -> None:
        pass


class entered(standing):
    """A block that is the present work."""

    def __enter__(self) -> Scope:
        self._outer = going_on()
        work = Scope(self.name, self)
        current.set(work)
        return work

    def __exit__(self, *exc_info: object) -> None:
        current.set(self._outer)


def going_on() -> Scope | None:
    """The present work; None when an interrupt has kept it from being left."""
    work = current.get()
    return None if work is None or work.life.is_over_here() else work
