"""
Ctrl-C and the signals that end a process, noticed only where the demo waits.

An exception out of a signal handler could come between the start of a process and the line that
knows how to stop it.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PAUSE_SECONDS = 0.02

_seen: list[int] = []


class Interrupted(Exception):
    """Somebody wants the demo to end; the argument is the signal's number."""


def install() -> None:
    """From now on these signals are noted, whatever the parent process made of them."""
    for number in SIGNALS:
        signal.signal(number, _note)


def pause() -> None:
    """Wait a moment. Raises Interrupted."""
    time.sleep(PAUSE_SECONDS)
    if _seen:
        raise Interrupted(_seen[0])


def wait(seconds: float) -> None:
    """Wait so long. Raises Interrupted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pause()


def _note(number: int, frame: FrameType | None) -> None:
    _seen.append(number)
