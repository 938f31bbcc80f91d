"""What becomes of the pools when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import ctypes
import os
import socket
import sys
import threading
import weakref
from functools import partial
from typing import Any

from . import forks, uwsgi
from .background import maintenance

LAST = -100  # among multiprocessing's finalizers: those of the user may query

_lock = threading.Lock()
_pools: list[weakref.ref[Any]] = []
_parked = False  # the main thread has stopped the maintenance thread, to fork


def enrol(pool: Any) -> None:
    """Have the pool emptied in forked children and its idle connections closed at exit."""
    with _lock:
        _pools[:] = [ref for ref in _pools if ref() is not None]
        _pools.append(weakref.ref(pool))
    _mind_multiprocessing()
    uwsgi.warn()


def living() -> list[Any]:
    return [pool for ref in list(_pools) if (pool := ref()) is not None]


def _resume(_: int | None) -> int:
    global _parked
    # After a fork in another thread the main thread comes here in the middle of anything, with
    # any lock held; and there is nothing to do.
    if _parked:
        _parked = False
        maintenance.resume()
        for pool in living():
            pool.rest_if_unused()
    return 0


# The thread must not be back before Python 3.12 and later have looked for threads to warn of,
# which they do after these hooks. A pending call waits for the next Python instruction; so
# that this is one after the fork, the hook is not a Python function itself.
_RESUME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_resume)
_resume_later = partial(ctypes.pythonapi.Py_AddPendingCall, _RESUME, None)


def _mind_multiprocessing() -> None:
    """Say goodbye in children of multiprocessing too: they end with os._exit()."""
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    # For children to come. They begin by forgetting the finalizers they inherited.
    util.register_after_fork(maintenance, _leave_at_the_end)
    if sys.modules["multiprocessing.process"].parent_process() is not None:
        _leave_at_the_end(maintenance)


def _leave_at_the_end(_: object) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, leave, exitpriority=LAST)


def _before_fork() -> None:
    global _parked
    # Pending calls are made by the main thread, which may be blocked while another one forks.
    # That one is warned in any case: there are two threads at least.
    if threading.get_ident() == threading.main_thread().ident:
        try:
            maintenance.park()
        finally:
            _parked = True


def _after_fork_in_child() -> None:
    global _lock, _parked
    _lock = threading.Lock()
    _parked = False
    maintenance.forget()
    pools = living()
    if pools:
        grave, peer = socket.socketpair()
        peer.close()
        with grave:
            for pool in pools:
                pool.abandon(grave)
        _mind_multiprocessing()


def is_ending() -> bool:
    """Whether the interpreter waits for its threads to end, which it does before exit handlers.

    An executor's threads end then with whatever they hold, and nobody has done anything wrong.
    """
    # Not documented, but there since Python 3.9; where it is missing they are warned of.
    return bool(getattr(threading, "_SHUTTING_DOWN", False))


@atexit.register
def leave() -> None:
    """Close what is idle, and from now on what is given back: the process is ending.

    For processes that end without running exit handlers; the others need not care.
    """
    for pool in living():
        pool.leave()
    maintenance.park()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_resume_later)
forks.in_child(_after_fork_in_child)
uwsgi.call_after_fork(forks.notice)
