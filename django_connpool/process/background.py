"""The one background thread of the process, whatever the number of pools.

It sleeps until the next deadline of any pool, or until a socket it watches has something
to read; it never polls. No borrower ever depends on it: what blocks (connecting, closing)
is done by short-lived workers, and what it would do for a waiter a waiter can cause itself.
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
from typing import Any

from . import uwsgi

logger = logging.getLogger("django_connpool.pool")

# Moments of the monotonic clock.
NEVER = float("inf")
AT_ONCE = float("-inf")

FAILURE_PAUSE = 0.5  # seconds, so that what keeps failing does not fill the log
LONGEST = 86400.0  # seconds of sleep; the system's calls take no more than 24 days
PARKING = 1.0  # seconds a fork waits at most for the thread to end, and then for the system to know


class Maintenance:
    """Deadlines of pools and watched sockets, served by one daemon thread.

    `_lock` guards all fields. It is taken inside a pool's lock, never the other way
    round, and never held while a pool or a callback runs.
    """

    def __init__(self) -> None:
        # Called in the thread at every wake-up with the time; each says when it wants to be
        # called next, on the monotonic clock. They outlive a fork.
        self.chores: list[Callable[[float], float]] = []
        self._begin()

    def forget(self) -> None:
        """Start anew: in a forked child, where the thread does not exist any more."""
        for end in self._wake_up or ():
            os.close(end)
        self._begin()

    def _begin(self) -> None:
        # Reentrant: a signal handler may use a pool in the middle of a section below.
        self._lock = threading.RLock()
        self._deadlines: dict[weakref.ref[Any], float] = {}
        self._watches: dict[Any, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._chores_due = NEVER
        self._sleeps_until = AT_ONCE  # the thread; or it is awake, and will look at the deadlines
        self._wake_up: tuple[int, int] | None = None  # read and write end of a pipe

    def schedule(self, pool: weakref.ref[Any], at: float) -> None:
        """Have the pool's `tick` called once at the moment `at` of the monotonic clock."""
        with self._lock:
            # In this order: no signal handler comes between the comparison and what follows.
            is_new = pool not in self._deadlines  # nobody has looked what it has noted so far
            self._deadlines.setdefault(pool, at)
            if at < self._deadlines[pool]:
                self._deadlines[pool] = at
            self._start()
            is_too_late = is_new or at < self._sleeps_until
        if is_too_late:
            self.poke()

    def watch(self, fileobj: Any, callback: Callable[[], None]) -> None:
        """Call `callback` in the thread whenever `fileobj` has something to read."""
        with self._lock:
            self._watches[fileobj] = callback
            self._start()
        self.poke()

    def dismiss(self, pool: weakref.ref[Any]) -> None:
        """Forget a pool that is closed and empty; the thread ends with the last of them."""
        with self._lock:
            self._deadlines.pop(pool, None)
        self.poke()

    def unwatch(self, fileobj: Any) -> None:
        with self._lock:
            self._watches.pop(fileobj, None)
        self.poke()

    def attend(self, pool: weakref.ref[Any]) -> None:
        """See that the thread is there for a pool whose borrowers may die while others wait."""
        thread = self._thread
        if thread is None or not thread.is_alive() or pool not in self._deadlines:
            self.schedule(pool, NEVER)

    def poke(self) -> None:
        """Wake the thread up. Takes no lock: a finalizer may call it at any instruction."""
        pipe = self._wake_up
        if pipe is not None:
            with suppress(OSError):  # the pipe is full: it will wake up anyway
                os.write(pipe[1], b"!")

    def park(self) -> None:
        """Stop the thread and wait for it, until `resume` or the next deadline.

        Before a fork: a process with one thread forks without the risk (and, since
        Python 3.12, the warning) that goes with several.
        """
        with self._lock:
            thread = self._thread
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
            with self._lock:
                self._stopping = False

    def resume(self) -> None:
        """Start the thread again after `park`, when it has anything to do."""
        with self._lock:
            if self._watches or self._deadlines:
                self._start()

    def _start(self) -> None:
        if self._stopping or (self._thread is not None and self._thread.is_alive()):
            return
        if uwsgi.is_loading():  # the children, if anything is to be done in them, will start one
            return
        if self._wake_up is None:
            self._wake_up = os.pipe()
            for end in self._wake_up:
                os.set_blocking(end, False)
        # A signal handler may start another in between: this one ends then, see `_is_needed`.
        self._thread = thread = threading.Thread(
            target=self._run, name="django-connpool-maintenance", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: nothing left to maintain
            self._thread = None

    def _run(self) -> None:
        try:
            while self._is_needed():
                self._work()
        except BaseException:
            with self._lock:
                self._thread = None
                if self._watches or self._deadlines:
                    self._start()
            raise

    def _work(self) -> None:
        try:
            self._sleep()
            self._serve_pools(time.monotonic())
            now = time.monotonic()
            self._chores_due = min((chore(now) for chore in self.chores), default=NEVER)
        except Exception:
            _log_failure("the maintenance thread failed, and goes on")
            time.sleep(FAILURE_PAUSE)

    def _is_needed(self) -> bool:
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if self._stopping or not (self._deadlines or self._watches):
                self._thread = None  # whoever has something to do from here on starts another
                return False
            return True

    def _sleep(self) -> None:
        """Wait for the next deadline, a poke, or a watched socket; serve the sockets."""
        with self._lock:
            self._sleeps_until = NEVER  # whoever comes from here on, in this thread too, pokes
            watches = dict(self._watches)
            wake_up = self._wake_up
            due = min(self._deadlines.values(), default=NEVER)
            due = min(due, self._chores_due)
            self._sleeps_until = due
        if wake_up is None:
            return
        with _selector() as selector:
            selector.register(wake_up[0], selectors.EVENT_READ)
            for fileobj in watches:
                with suppress(ValueError, KeyError, OSError):  # closed meanwhile
                    selector.register(fileobj, selectors.EVENT_READ)
            timeout = None if due == NEVER else min(max(0.0, due - time.monotonic()), LONGEST)
            ready = [key.fileobj for key, _ in selector.select(timeout)]
        with self._lock:
            if self._thread is threading.current_thread():  # or another sleeps in its place
                self._sleeps_until = AT_ONCE
        for fileobj in ready:
            if fileobj == wake_up[0]:
                with suppress(BlockingIOError):
                    os.read(wake_up[0], 4096)
            else:
                _call(watches[fileobj])

    def _serve_pools(self, now: float) -> None:
        with self._lock:
            due = []
            for ref, at in list(self._deadlines.items()):
                pool = ref()
                if pool is None:
                    del self._deadlines[ref]
                elif at <= now or pool.has_orphans:
                    due.append((ref, pool))
        for ref, pool in due:
            self._serve(ref, pool)

    def _serve(self, ref: weakref.ref[Any], pool: Any) -> None:
        with self._lock:
            if ref not in self._deadlines:  # dismissed meanwhile
                return
            self._deadlines[ref] = NEVER
        served = False
        try:
            served = _call(pool.tick)
        finally:
            if not served:  # or nobody would look at this pool again
                self.schedule(ref, time.monotonic() + FAILURE_PAUSE)


def _selector() -> selectors.BaseSelector:
    """The usual one, but not epoll: for the few files here it costs four calls more each time.

    In each the thread lets go of the interpreter's lock, and with busy threads around, getting
    that back costs them more than whatever the thread is awake for.
    """
    usual = selectors.DefaultSelector  # looked up now: gevent may have its own
    if usual is getattr(selectors, "EpollSelector", None):
        return selectors.PollSelector()
    return usual()


def _await_exit(thread: threading.Thread) -> None:
    """Wait, but no longer than `PARKING`, until the operating system has forgotten the thread too.

    Before Python 3.13 that is a moment after join() returns, and a fork counts its threads.
    A greenlet (gevent) is no thread: what it goes by is the thread that asks.
    """
    if thread.is_alive() or thread.native_id == threading.main_thread().native_id:
        return
    task = f"/proc/self/task/{thread.native_id}"
    deadline = time.monotonic() + PARKING
    while os.path.exists(task) and time.monotonic() < deadline:
        time.sleep(0.0001)


def _call(callback: Callable[[], None]) -> bool:
    """Whether it ended well; an Exception is logged."""
    try:
        callback()
    except Exception:
        _log_failure("maintenance: %r failed", callback)
        return False
    return True


def _log_failure(text: str, *args: object) -> None:
    """Log the exception being handled; a log handler that fails too does not end the thread."""
    with suppress(Exception):
        logger.exception(text, *args)


maintenance = Maintenance()


class Ticket:
    """By which a task has itself run. (Until the thread knows tasks itself.)"""

    def __init__(self, task: Any) -> None:
        self._task = weakref.ref(task, lambda _: maintenance.poke())
        self._called = False
        self._ref: weakref.ref[Any] = weakref.ref(self)

    @property
    def has_orphans(self) -> bool:
        return self._called

    def tick(self) -> None:
        self._called = False
        if (task := self._task()) is not None:
            at = task.run(time.monotonic())
            if self._ref in maintenance._deadlines:
                maintenance.schedule(self._ref, at)

    def by(self, at: float) -> None:
        maintenance.schedule(self._ref, at)

    def now(self) -> None:
        self._called = True
        maintenance.poke()

    def attend(self) -> None:
        maintenance.attend(self._ref)

    def leave(self) -> None:
        maintenance.dismiss(self._ref)


class _Background:
    def join(self, task: Any) -> Ticket:
        return Ticket(task)


background = _Background()
