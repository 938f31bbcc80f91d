"""What becomes of the pools when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import socket
import threading
import weakref
from typing import Protocol

from . import cpython, forks, threads, uwsgi
from .background import background


class Part(Protocol):
    """What is to be told when the process forks, and when it ends: a pool."""

    def abandon(self, grave: socket.socket) -> None:
        """In a forked child: forget the parent's connections; their sockets become the grave."""

    def rest_if_unused(self) -> None:
        """In a parent that has forked: keep nothing ready that nobody has ever used here."""

    def leave(self) -> None:
        """At the end: close what is idle, and what comes back from now on."""


_parts: list[weakref.ref[Part]] = []  # those that are gone leave by themselves
_parked = False  # the main thread has stopped the maintenance thread, to fork


def enrol(part: Part) -> None:
    """Have a pool emptied in forked children and its idle connections closed at exit."""
    _parts.append(weakref.ref(part, _parts.remove))
    cpython.at_end_of_children(leave)
    uwsgi.warn()


def _living() -> list[Part]:
    return [part for ref in list(_parts) if (part := ref()) is not None]


def _resume() -> None:
    global _parked
    # After a fork in another thread the main thread comes here in the middle of anything, with
    # any lock held; and there is nothing to do.
    if _parked:
        _parked = False
        background.resume()
        for part in _living():
            part.rest_if_unused()


# The thread must not be back before Python 3.12 and later have looked for threads to warn of,
# which they do after these hooks. A pending call waits for the next Python instruction; so
# that this is one after the fork, the hook is not a Python function itself.
_resume_later = cpython.soon(_resume)


def _before_fork() -> None:
    global _parked
    # Pending calls are made by the main thread, which may be blocked while another one forks.
    # That one is warned in any case: there are two threads at least.
    if threading.get_ident() == threading.main_thread().ident:
        _parked = True  # if an interrupt strikes before it is said again
        background.park()
        _parked = True  # what resumes may have come by meanwhile


def _abandon() -> None:
    global _parked
    _parked = False
    parts = _living()
    if parts:
        grave, peer = socket.socketpair()
        peer.close()
        with grave:
            for part in parts:
                part.abandon(grave)
        cpython.at_end_of_children(leave)


def is_ending() -> bool:
    """Whether the interpreter waits for its threads to end, which it does before exit handlers.

    An executor's threads end then with whatever they hold, and nobody has done anything wrong.
    """
    return cpython.is_awaiting_threads()


@atexit.register
def leave() -> None:
    """Close what is idle, and from now on what is given back: the process is ending.

    For processes that end without running exit handlers; the others need not care.
    """
    for part in _living():
        part.leave()
    background.park()
    threads.await_all()


forks.around(_before_fork, _resume_later)
forks.in_child(_abandon, forks.Floor.POOLS)
uwsgi.call_after_fork(forks.notice)
