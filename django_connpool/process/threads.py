"""What the threads of ours have in common: an end that is told, and one that is waited for.

They are daemons, so that none keeps a process from its end. But one that is in C as the interpreter
is taken down may come back to what is no more: so those that end soon are waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

PATIENCE = 1.0  # seconds for all of them, at the end of the process
_started: WeakValueDictionary[int, threading.Thread] = WeakValueDictionary()  # by `id`


def start(thread: threading.Thread) -> bool:
    """Start it; False where no thread is to be had, as at the end of the process."""
    try:
        thread.start()
    except RuntimeError:
        return False
    _started[id(thread)] = thread
    return True


class Job:
    """A piece of work in hand. `over` says that it is in nobody's hand any more."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


def do(work: Callable[[], None], job: Job, cut_short: Callable[[], None]) -> None:
    """Do the work; when an error or an interrupt ends it, the job is over, and a note is left."""
    try:
        work()
    except BaseException:
        job.over = True  # first, and no call: at one the next interrupt may strike
        cut_short()
        raise


def await_all(seconds: float = PATIENCE) -> None:
    """Wait, at most so long, until all that were started have ended."""
    deadline = time.monotonic() + seconds
    # A list made at once, while others may still begin.
    for reference in _started.valuerefs():
        thread = reference()
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
