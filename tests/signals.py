"""What a child process inherits of signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_taken() -> Iterator[None]:
    """Processes started in the block take Ctrl-C, whatever this one makes of it.

    A shell starts its background jobs with SIGINT ignored, and what is ignored is inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
