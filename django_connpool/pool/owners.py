"""Whose loan it is, so that the loans of a thread end with it.

Each thread that borrows has an `_Owner` in a `threading.local`; the interpreter drops it
when the thread ends, at once, and its finalizer tells the pools. (Under gevent's monkey
patching that local belongs to the greenlet, and so does the rule.)
"""

from __future__ import annotations

import threading

from .slot import Loans


class _Owner:
    """Dies with its thread. Must not be referenced from anywhere else."""

    __slots__ = ("loans",)

    def __init__(self, loans: Loans) -> None:
        self.loans = loans

    def __del__(self) -> None:
        # A finalizer: it may run inside any lock, so it takes none. See `Core.orphaned`.
        self.loans.ended = True
        for slot in tuple(self.loans):
            slot.thread_ended(self.loans)


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.loans = Loans(threading.get_ident())
        self._owner = _Owner(self.loans)


this_thread = _ThisThread()
