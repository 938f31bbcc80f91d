"""The one background thread of the process: tasks that are due, and sockets to read.

It sleeps until a task is due or called, or until a socket it reads has something to say; it
never polls. What blocks (connecting, closing, answering) is done by short-lived threads, so that
no task keeps the others waiting.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from . import cpython, forks, threads, uwsgi

logger = logging.getLogger("django_connpool.pool.background")

# Moments of the monotonic clock.
NEVER = float("inf")
AT_ONCE = float("-inf")

FAILURE_PAUSE = 0.5  # seconds, so that what keeps failing does not fill the log
LONGEST = 86400.0  # seconds of sleep; the system's calls take no more than 24 days
PARKING = 1.0  # seconds a fork waits at most for the thread to end, and then for the system to know


class Task(Protocol):
    """Something to be done now and then. It may be run although nothing is due."""

    def run(self, now: float) -> float:
        """Do what is due, and return when to come again; at NEVER, only when called."""


class Ticket:
    """By which a task is on the list of a background, from a first call until it leaves."""

    __slots__ = ("_background", "lasts", "task")

    def __init__(self, background: Background, task: Task, lasts: bool) -> None:
        self._background = background
        self.task = weakref.ref(task, background.task_is_gone)
        self.lasts = lasts

    def by(self, at: float) -> None:
        """Have the task run no later than at this moment of the monotonic clock."""
        background = self._background
        due = background.due
        with background.lock:
            # In this order: no signal handler comes between the comparison and what follows.
            due.setdefault(self, at)
            if at < due[self]:
                due[self] = at
            if self.lasts:
                background.start()
            is_too_late = at < background.sleeps_until
        if is_too_late:
            background.poke()

    @property
    def due(self) -> float:
        """When the task runs next. Takes no lock; in a forked child, and while it runs, NEVER."""
        return self._background.due.get(self, NEVER)

    def now(self) -> None:
        """Have it run, once also if it has left or never came.

        Takes no lock and starts no thread: for finalizers, at any instruction.
        """
        self._background.called.add(self)
        self._background.poke()

    def attend(self) -> None:
        """See that the thread is there, for a task that others may have to call."""
        thread = self._background.thread
        if thread is None or not thread.is_alive() or self not in self._background.due:
            self.by(NEVER)

    def leave(self) -> None:
        """Forget the task; the thread ends with the last."""
        with self._background.lock:
            self._background.due.pop(self, None)
        self._background.poke()


class Background:
    """Tasks with their deadlines, and sockets, served by one daemon thread.

    `lock` guards all fields but `called`. It is taken inside a pool's lock, never the other way
    round, and never held while a task or a callback runs. Fields without an underscore are for
    tickets.
    """

    def __init__(self) -> None:
        self._begin()

    def begin_anew(self) -> None:
        """In a forked child, where the thread does not exist any more: nobody is on the list."""
        for end in self._wake_up or ():
            os.close(end)
        self._begin()

    def _begin(self) -> None:
        # Reentrant: a signal handler may use a pool in the middle of a section below.
        self.lock = threading.RLock()
        self.due: dict[Ticket, float] = {}
        self._reads: dict[Any, Callable[[], None]] = {}
        self.called: set[Ticket] = set()  # without the lock, at any instruction
        self.thread: threading.Thread | None = None
        self._running: Ticket | None = None  # whose task is run; for the thread alone
        self._stopping = False
        self.sleeps_until = AT_ONCE  # the thread; or it is awake, and will look at the deadlines
        self._wake_up: tuple[int, int] | None = None  # read and write end of a pipe

    def join(self, task: Task, lasts: bool = True) -> Ticket:
        """Give a task, which is kept weakly, its ticket.

        One that does not last is run as long as the thread is there for others.
        """
        return Ticket(self, task, lasts)

    def read(self, fileobj: Any, callback: Callable[[], None]) -> None:
        """Call `callback` in the thread whenever `fileobj` has something to read."""
        with self.lock:
            self._reads[fileobj] = callback
            self.start()
        self.poke()

    def unread(self, fileobj: Any) -> None:
        """Do so no more."""
        with self.lock:
            self._reads.pop(fileobj, None)
        self.poke()

    def task_is_gone(self, _: object) -> None:
        """Perhaps the thread is not needed any more. For the interpreter."""
        self.poke()

    def poke(self) -> None:
        """Wake the thread up. Takes no lock: a finalizer may call it at any instruction."""
        pipe = self._wake_up
        # There is no `os` when the interpreter has almost ended.
        if pipe is not None and os is not None:
            with suppress(OSError):  # the pipe is full: it will wake up anyway
                os.write(pipe[1], b"!")

    def park(self) -> None:
        """Stop the thread and wait for it, until `resume` or the next deadline.

        Before a fork: a process with one thread forks without the risk (and, since
        Python 3.12, the warning) that goes with several.
        """
        with self.lock:
            thread = self.thread
            self._stopping = True
        try:
            if (
                thread is not None
                and thread.is_alive()
                and thread is not threading.current_thread()
            ):
                self.poke()
                thread.join(PARKING)
                _await_exit(thread)
        finally:
            with self.lock:
                self._stopping = False

    def resume(self) -> None:
        """Start the thread again after `park`, when it has anything to do."""
        with self.lock:
            if self._has_work():
                self.start()

    def _has_work(self) -> bool:
        return bool(self._reads) or any(ticket.lasts for ticket in list(self.due))

    def start(self) -> None:
        """Under the lock: see that the thread is there."""
        if self._stopping or (self.thread is not None and self.thread.is_alive()):
            return
        if uwsgi.is_loading():  # the children, if anything is to be done in them, will start one
            return
        if self._wake_up is None:
            self._wake_up = os.pipe()
            for end in self._wake_up:
                os.set_blocking(end, False)
        # A signal handler may start another in between: this one ends then, see `_is_needed`.
        self.thread = thread = threading.Thread(
            target=self._run, name="django-connpool-maintenance", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: nothing left to do
            self.thread = None

    def _run(self) -> None:
        threads.do(self._work_on, threads.Job(), self._start_again)

    def _start_again(self) -> None:
        with self.lock:
            self.thread = None
            if self._running is not None:  # or nobody would look at it again
                self._running.by(time.monotonic() + FAILURE_PAUSE)
            self.resume()

    def _work_on(self) -> None:
        while self._is_needed():
            try:
                self._sleep()
                self._serve(time.monotonic())
            except Exception:
                _log_failure("the maintenance thread failed, and goes on")
                time.sleep(FAILURE_PAUSE)

    def _is_needed(self) -> bool:
        with self.lock:
            if self.thread is not threading.current_thread():
                return False
            if self._stopping or not self._has_work():
                self.thread = None  # whoever has something to do from here on starts another
                return False
            return True

    def _sleep(self) -> None:
        """Wait for the next deadline, a call, or something to read; serve what is read."""
        with self.lock:
            self.sleeps_until = NEVER  # whoever comes from here on, in this thread too, pokes
            reads = dict(self._reads)
            wake_up = self._wake_up
            due = min(self.due.values(), default=NEVER)
            if self.called:  # when there was no pipe yet
                due = AT_ONCE
            self.sleeps_until = due
        if wake_up is None:
            return
        with _selector() as selector:
            selector.register(wake_up[0], selectors.EVENT_READ)
            for fileobj in reads:
                with suppress(ValueError, KeyError, OSError):  # closed meanwhile
                    selector.register(fileobj, selectors.EVENT_READ)
            timeout = None if due == NEVER else min(max(0.0, due - time.monotonic()), LONGEST)
            ready = [key.fileobj for key, _ in selector.select(timeout)]
        with self.lock:
            if self.thread is threading.current_thread():  # or another sleeps in its place
                self.sleeps_until = AT_ONCE
        for fileobj in ready:
            if fileobj == wake_up[0]:
                with suppress(BlockingIOError):
                    os.read(wake_up[0], 4096)
            else:
                self._call_back(reads[fileobj])

    def _call_back(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            _log_failure("maintenance: %r failed", callback)

    def _serve(self, now: float) -> None:
        """Run the tasks that are called or due."""
        while (ticket := self._next(now)) is not None:
            task = ticket.task()
            if task is not None:
                self._run_task(ticket, task)

    def _next(self, now: float) -> Ticket | None:
        with self.lock:
            if self.called:
                ticket = self.called.pop()
                if ticket in self.due:
                    self.due[ticket] = NEVER
                return ticket
            for ticket, at in list(self.due.items()):
                if ticket.task() is None:
                    self.due.pop(ticket, None)
                elif at <= now:
                    self.due[ticket] = NEVER
                    return ticket
            return None

    def _run_task(self, ticket: Ticket, task: Task) -> None:
        self._running = ticket
        try:
            again = task.run(time.monotonic())
        except Exception:
            _log_failure("maintenance: %r failed", task)
            ticket.by(time.monotonic() + FAILURE_PAUSE)  # or nobody would look at it again
        else:
            if ticket in self.due:  # it has not left meanwhile
                ticket.by(again)
        self._running = None


def _selector() -> selectors.BaseSelector:
    """The usual one, but not epoll, which is a descriptor of its own.

    The process may have none left, and a child that another thread forks would inherit it.
    """
    usual = selectors.DefaultSelector  # looked up now: gevent may have its own
    if usual is getattr(selectors, "EpollSelector", None):
        return selectors.PollSelector()
    return usual()


def _await_exit(thread: threading.Thread) -> None:
    """Wait, but no longer than `PARKING`, until the operating system has forgotten the thread too.

    A fork counts its threads.
    """
    deadline = time.monotonic() + PARKING
    while not thread.is_alive() and cpython.lingers(thread) and time.monotonic() < deadline:
        time.sleep(0.0001)


def _log_failure(text: str, *args: object) -> None:
    """Log the exception being handled; a log handler that fails too does not end the thread."""
    with suppress(Exception):
        logger.exception(text, *args)


background = Background()
forks.in_child(background.begin_anew, forks.Floor.BACKGROUND)
