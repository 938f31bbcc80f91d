"""What becomes of the pools when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .maintenance import maintenance

if TYPE_CHECKING:
    from .pool import ConnectionPool

_lock = threading.Lock()
_pools: list[weakref.ref[ConnectionPool[Any]]] = []


def enrol(pool: ConnectionPool[Any]) -> None:
    """Have the pool emptied in forked children and its idle connections closed at exit."""
    with _lock:
        _pools[:] = [ref for ref in _pools if ref() is not None]
        _pools.append(weakref.ref(pool))


def living() -> list[ConnectionPool[Any]]:
    return [pool for ref in list(_pools) if (pool := ref()) is not None]


def _before_fork() -> None:
    maintenance.park()
    for pool in living():
        # The thread is gone; the next deadline of each pool has to start it again.
        pool.forget_deadline()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    maintenance.forget()
    pools = living()
    if pools:
        grave, peer = socket.socketpair()
        peer.close()
        with grave:
            for pool in pools:
                pool.abandon(grave)


@atexit.register
def _at_exit() -> None:
    for pool in living():
        pool.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
