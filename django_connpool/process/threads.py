"""Threads of ours that end by themselves soon, and are waited for when the process ends.

They are daemons, so that none keeps a process from its end. But a daemon that is in C as the
interpreter is taken down may come back to what is no more, and the process dies of a signal.
"""

from __future__ import annotations

import threading
import time
from weakref import WeakSet

PATIENCE = 1.0  # seconds for all of them, at the end of the process
_started: WeakSet[threading.Thread] = WeakSet()


def start(thread: threading.Thread) -> bool:
    """Start it; False where no thread is to be had, as at the end of the process."""
    try:
        thread.start()
    except RuntimeError:
        return False
    _started.add(thread)
    return True


def await_all(seconds: float = PATIENCE) -> None:
    """Wait, at most so long, until all that were started have ended."""
    deadline = time.monotonic() + seconds
    for thread in set(_started) - {threading.current_thread()}:
        thread.join(max(0.0, deadline - time.monotonic()))
