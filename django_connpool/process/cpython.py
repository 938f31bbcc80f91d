"""What CPython does and does not promise, each with a plain way where it is missing.

Other files ask here: `tests/pool/test_cpython.py` knows what each means, and lets no other file
use them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

LAST = -100  # among multiprocessing's finalizers: those of the user may query

# -- The global lock ----------------------------------------------------------------------


def has_global_lock() -> bool:
    """Whether one thread runs Python at a time, at this moment."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: sys.version_info < (3, 13))())


# Whether threads may run Python at the same time. Such a build takes the lock and lets it go as
# extensions are loaded, so it counts which build it is.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED")) or not has_global_lock()

# -- Locks --------------------------------------------------------------------------------


def ownership(lock: Any) -> Callable[[], bool]:
    """What says whether this thread is inside a reentrant lock. It is asked at each loan."""
    return getattr(lock, "_is_owned", None) or partial(is_owned_as_documented, lock)


def is_owned_as_documented(lock: Any) -> bool:
    """The same: a condition cannot be notified without its lock."""
    try:
        threading.Condition(lock).notify()
    except RuntimeError:
        return False
    return True


def _said_when_free(lock: Any) -> str:
    try:
        lock.release()
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{lock!r} was released, although nobody had it")


# What `release` says of a lock that nobody holds: threading's two kinds, and gevent's, which may
# take their place after this was imported.
_FREE = (
    _said_when_free(threading.Lock()),
    _said_when_free(threading.RLock()),
    "cannot release un-acquired lock",
    "Semaphore released too many times",
)


def expect_free(error: RuntimeError) -> None:
    """Raise the error, if it is not of `release`, but of a signal handler that came right after."""
    if not str(error).startswith(_FREE):
        raise error


# -- Threads ------------------------------------------------------------------------------

# The innermost frame of each thread, by its identifier; none where Python does not tell, or where
# to look at the frame of a thread that runs may end the process. That of the caller is among them,
# so clear the mapping: else it is a circle with all that they hold.
frames_of_threads: Callable[[], dict[int, FrameType]] = (
    dict if FREE_THREADED else getattr(sys, "_current_frames", dict)
)


def is_awaiting_threads() -> bool:
    """Whether the interpreter waits for its threads to end, which it does before exit handlers.

    Where Python does not say when that begins: once the threads of executors have ended.
    """
    begun = getattr(threading, "_SHUTTING_DOWN", None)
    return not threading.main_thread().is_alive() if begun is None else bool(begun)


def lingers(thread: threading.Thread) -> bool:
    """Whether a thread that has ended is still one of the process's to the operating system.

    Before Python 3.13 that is so for a moment after join() returns. Linux tells; elsewhere no.
    """
    if thread.native_id == threading.main_thread().native_id:
        return False  # a greenlet (gevent) goes by the thread that asks
    return os.path.exists(f"/proc/self/task/{thread.native_id}")


def soon(function: Callable[[], None]) -> Callable[[], object]:
    """What has the main thread call the function before its next instruction of Python.

    Without ctypes, as on some small systems, the function itself: called at once.
    """
    try:
        import ctypes

        add = ctypes.pythonapi.Py_AddPendingCall
    except (ImportError, AttributeError):
        return function

    def call(_: int | None) -> int:
        function()
        return 0

    return partial(add, ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(call), None)


# -- Event loops --------------------------------------------------------------------------


def _running_loop_by_error() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# The event loop that runs in this thread, or None. That there is none is the rule, and an error
# for each statement would cost more than all the rest of the question.
running_loop: Callable[[], asyncio.AbstractEventLoop | None] = getattr(
    asyncio, "_get_running_loop", _running_loop_by_error
)

# -- References ---------------------------------------------------------------------------


def count(reference: object) -> int:
    """How many references there are to an object; see `ONE_VARIABLE`."""
    return sys.getrefcount(reference)


def _of_one_variable() -> int:
    only = object()
    return count(only)


def _of_what(holder: SimpleNamespace) -> int:
    thing = holder.thing
    return count(thing)


def _counts_right(one_variable: int) -> bool:
    """Whether a count is what it is taken for: an interpreter may know better than to count."""
    holder = SimpleNamespace(thing=object())
    seen = [_of_what(holder) - one_variable]
    another = [holder.thing]
    seen.append(_of_what(holder) - one_variable)
    variable = another[0]
    seen.append(_of_what(holder) - one_variable)
    blocks = [nullcontext(variable)]
    before = count(blocks[0])
    with blocks[0]:
        inside = count(blocks[0])
    return seen == [1, 2, 3] and inside > before


def _can_count(one_variable: int) -> bool:
    """References are counted by CPython with its global lock; else a count says little.

    A compiler leaves counting out where it sees that nobody needs it.
    """
    compiles = getattr(getattr(sys, "_jit", None), "is_enabled", bool)()
    is_cpython = sys.implementation.name == "cpython"
    return is_cpython and not (FREE_THREADED or compiles) and _counts_right(one_variable)


COUNTS = _can_count(_of_one_variable())
# What `count` says of what one local variable refers to.
ONE_VARIABLE = _of_one_variable() if COUNTS else 0

# -- The garbage collector ----------------------------------------------------------------


def sign_of_life() -> Any:
    """An object to lay on another: weak references to it tell when that is really gone.

    Those to the other itself are cleared too early: as the collector has found it, and before the
    generators and coroutines are closed that it was found with, which may still use it. Of a code
    object, which refers to no container, the collector knows nothing: it goes with what the other
    has, after all of them have had their say. None where it is known, and may live for ever.
    """
    return None if FREE_THREADED else sign_of_life.__code__.replace(co_name="sign_of_life")


# -- multiprocessing ----------------------------------------------------------------------


def at_end_of_children(leave: Callable[[], None]) -> None:
    """Have this called where multiprocessing's children end: without exit handlers.

    In children to come, and in this process if it is one. Where that cannot be said, never.
    """
    modules: Mapping[str, Any] = sys.modules
    util = modules.get("multiprocessing.util")
    if util is None or not (hasattr(util, "register_after_fork") and hasattr(util, "Finalize")):
        return
    # They begin by forgetting the finalizers they inherited.
    util.register_after_fork(leave, _finalize)
    if modules["multiprocessing.process"].parent_process() is not None:
        _finalize(leave)


def _finalize(leave: Callable[[], None]) -> None:
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, leave, exitpriority=LAST)
