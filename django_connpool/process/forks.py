"""What begins anew in a forked child, and how a process knows that it is one.

Python tells of the forks it makes. uWSGI makes its own and tells nobody: such a child asks for
its process id, at moments that come before its first query; see uwsgi.py.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

logger = logging.getLogger("django_connpool.pool")

_lock = threading.RLock()
_pid = os.getpid()
_hooks: list[Callable[[], None]] = []


def in_child(hook: Callable[[], None]) -> None:
    """Have `hook` called in every child, once, after those that were registered before it."""
    _hooks.append(hook)


def notice() -> None:
    """Begin anew, if this process is a child that Python was not told of."""
    if os.getpid() != _pid:
        with _lock:
            if os.getpid() != _pid:
                _begin_anew()


def _begin_anew() -> None:
    global _pid
    for hook in _hooks:
        try:
            hook()
        except Exception:
            logger.exception("after a fork %r failed", hook)
    # Last: until now other threads wait for it.
    _pid = os.getpid()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    _begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
