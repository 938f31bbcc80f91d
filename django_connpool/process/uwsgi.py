"""uWSGI: what a pool has to know of the process it is in, and Python does not say.

uWSGI loads the application in one process and forks its workers from that, in C. Python's own
hooks for forks are not called, and a thread of Python's that wants the interpreter at that moment
stops the child for ever: it waits for a thread to take the interpreter over that it has not got.
So in the process that loads there are no threads, and a child is told by uWSGI's own hook.

Without `enable-threads` (off unless set, in old versions) a worker keeps the interpreter between
two requests, so that a thread in the background goes on during requests only.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("django_connpool.pool.background")

STANDS_STILL = (
    "uWSGI runs without enable-threads: between two requests nothing happens in the background. "
    "Connections that are idle for too long or too old are closed late, and poolstatus does not "
    "see this process."
)
HINT = "Set enable-threads = true in the configuration of uWSGI."

_pid = os.getpid()  # a child that Python has forked from the loading process is none itself
_warned = False


def is_loading() -> bool:
    """Whether this process loads the application for those that it will fork.

    Also once it has: uWSGI's master goes on without running Python.
    """
    host = _host()
    return (
        host is not None
        and not (host.worker_id() or host.mule_id() or host.i_am_the_spooler())
        and os.getpid() == _pid
    )


def stands_still() -> bool:
    """Whether threads in the background stand still between two requests."""
    host = _host()
    return host is not None and not getattr(host, "has_threads", True)


def warn() -> None:
    """Log a warning in such a process, once."""
    global _warned
    if not _warned and stands_still():
        _warned = True
        logger.warning(STANDS_STILL + " " + HINT)


def call_after_fork(function: Callable[[], None]) -> None:
    """Have uWSGI call the function in each process it forks, before all others that it calls.

    Call it again when all is loaded: whoever sets the hook later takes the place of others.
    """
    host = _host()
    if host is None:
        return
    earlier = getattr(host, "post_fork_hook", None)
    if not isinstance(earlier, _Hook):
        host.post_fork_hook = _Hook(function, earlier)


class _Hook:
    def __init__(self, function: Callable[[], None], earlier: Callable[[], Any] | None) -> None:
        self._function = function
        self._earlier = earlier

    def __call__(self) -> None:
        self._function()
        if self._earlier is not None:
            self._earlier()


def _host() -> Any:
    """uWSGI's module, or None elsewhere. A project may have a module of that name too."""
    host: Any = sys.modules.get("uwsgi")
    return host if callable(getattr(host, "worker_id", None)) and hasattr(host, "opt") else None
