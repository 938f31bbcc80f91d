"""Forks: what begins anew in a child, in which order, and how a process knows that it is one.

Python tells of the forks it makes. uWSGI makes its own and tells nobody: such a child asks for
its process id, at moments that come before its first query; see uwsgi.py.

A thread of the parent may have held a lock as it forked, and is not in the child to release it. So
the hooks replace them: those of objects (the background, the pools), and those of three modules:
registry.py, status/server.py and this one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from enum import IntEnum

logger = logging.getLogger("django_connpool.pool.background")


class Floor(IntEnum):
    """Who begins anew in a child before whom: nobody before what it stands on."""

    # All others put themselves on its list, for which they take its lock.
    BACKGROUND = 0
    # Before anybody lets go of a connection: one that dies unburied says goodbye to the parent's
    # server, on the parent's socket.
    POOLS = 1
    # Its lock is taken by whoever looks for a wrapper's pool, or for a pool's wrappers.
    REGISTRY = 2
    WRAPPERS = 3
    # It tells of all the others.
    STATUS = 4


_lock = threading.RLock()
_pid = os.getpid()
_hooks: list[tuple[Floor, Callable[[], None]]] = []


def in_child(hook: Callable[[], None], floor: Floor) -> None:
    """Have `hook` called in every child, once, after those of lower floors."""
    _hooks.append((floor, hook))
    _hooks.sort(key=lambda entry: entry[0])


def around(before: Callable[[], object], in_parent: Callable[[], object]) -> None:
    """Have these called before and after each fork that Python makes, in the parent."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent)


def notice() -> None:
    """Begin anew, if this process is a child that Python was not told of."""
    if os.getpid() != _pid:
        with _lock:
            if os.getpid() != _pid:
                _begin_anew()


def _begin_anew() -> None:
    global _pid
    for _, hook in _hooks:
        try:
            hook()
        except Exception:
            logger.exception("after a fork %r failed", hook)
    # Last: until now other threads wait for it.
    _pid = os.getpid()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
