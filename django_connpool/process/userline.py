"""The line of the user's own code that a thread or a coroutine is at.

Below it stand the libraries: ours, the driver, the standard library, Django with its servers and
task queues, wherever they are installed. Looked for when somebody asks, and at a borrow only with
`leak_after`.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import FrameType
from typing import Any

from .cpython import FREE_THREADED, frames_of_threads

# By the names of their packages: an editable one is not where installed ones are.
_RUNNERS = frozenset(
    {
        *("asgiref", "django", "django_connpool", "psycopg", "psycopg_pool"),
        *("celery", "kombu", "billiard", "dramatiq", "huey", "rq", "django_rq", "channels"),
        *("gunicorn", "uvicorn", "daphne", "hypercorn", "waitress", "mod_wsgi", "cheroot"),
        *("gevent", "greenlet", "eventlet", "uvloop", "anyio", "trio", "twisted"),
        *("sentry_sdk", "ddtrace", "elasticapm", "newrelic", "opentelemetry", "wrapt"),
    }
)
# Of Django, what does a site's work: its admin, its login.
_CONTRIB = "django.contrib."

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = tuple(
    {
        path + os.sep
        for path in (os.path.dirname(os.__file__), os.path.dirname(os.path.realpath(os.__file__)))
    }
)
_SCRIPTS = (sysconfig.get_path("scripts") or "?") + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

USERS = 2
INSTALLED = 1  # the next best: a package that does a site's work
NOBODYS = 0


def of_stack(frame: FrameType | None, note: object = None) -> FrameType | None:
    """The innermost frame of the user's in a stack, or in the coroutine that waits for it.

    `note` is what a loan is for. If it knows a coroutine (`note.coroutine()`), that one is looked
    through when the stack has none: async code has its queries done by other threads.
    """
    return best(_ways_in(frame, note))


def text(frame: FrameType | None) -> str:
    """A frame as text; empty for None."""
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def of_thread(
    ident: int, note: object = None, frames: Mapping[int, FrameType] | None = None
) -> str:
    """The user's line a thread is at now, as text; empty when it is at none, or has ended."""
    return text(of_stack(_stack(ident, frames), note))


def _stack(ident: int, frames: Mapping[int, FrameType] | None) -> FrameType | None:
    # No variable here or in `of_thread`: one that holds its own frame is a circle.
    if ident == threading.get_ident():
        # A greenlet is no thread, and not among the others; but this one is known.
        return inspect.currentframe()
    return (frames_of_threads() if frames is None else frames).get(ident)


def _ways_in(frame: FrameType | None, note: object) -> Iterator[FrameType]:
    """All frames, the innermost first."""
    while frame is not None:
        yield frame
        if frame.f_globals.get("__name__") == "asgiref.sync":
            # A view that async_to_sync runs elsewhere, while this thread does its queries.
            yield from _of_coroutine(frame.f_locals.get("awaitable"))
        frame = frame.f_back
    coroutine = getattr(note, "coroutine", None)
    if callable(coroutine):
        yield from _of_coroutine(coroutine())


def _of_coroutine(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits, the innermost first."""
    if FREE_THREADED:  # another thread may be running it
        return
    frames = []
    while inspect.iscoroutine(coroutine):
        frame = coroutine.cr_frame
        if frame is not None:
            frames.append(frame)
            if coroutine.cr_running:  # it awaits nothing: what it has called runs in some thread
                yield from _above(frame)
                break
        coroutine = coroutine.cr_await
    yield from reversed(frames)


def _above(frame: FrameType) -> list[FrameType]:
    """The frames of calls that a frame waits for, the innermost first; none if it runs nowhere."""
    frames = frames_of_threads()
    # This function's own would make a circle, and what the others hold would live on.
    frames.pop(threading.get_ident(), None)
    try:
        return _between(inspect.currentframe(), frame) or next(
            (found for one in frames.values() if (found := _between(one, frame))), []
        )
    finally:
        frames.clear()


def _between(one: FrameType | None, outer: FrameType) -> list[FrameType]:
    """The frames from one out to another that is below it, but for those of this file."""
    found: list[FrameType] = []
    while one is not None:
        if one is outer:
            return found
        if one.f_code.co_filename != __file__:
            found.append(one)
        one = one.f_back
    return []


def best(frames: Iterator[FrameType]) -> FrameType | None:
    second = None
    for frame in frames:
        owner = whose(frame.f_code.co_filename, frame.f_globals.get("__name__"))
        if owner == USERS:
            return frame
        if owner == INSTALLED and second is None:
            second = frame
    return second


@lru_cache(4096)
def whose(file: str, module: object) -> int:
    name = module if isinstance(module, str) else ""
    if file.startswith(("<frozen", _OURS)):
        return NOBODYS
    if name.startswith(_CONTRIB):
        return INSTALLED
    if name.partition(".")[0] in _RUNNERS:
        return NOBODYS
    if any(part in file for part in _INSTALLED):
        # Run by `python -m` it has no name.
        return INSTALLED if name != "__main__" else NOBODYS
    if file.startswith((*_STANDARD, _SCRIPTS)):
        return NOBODYS
    return USERS
