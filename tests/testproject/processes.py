"""The processes that a test's command has left behind."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

MARK = "CONNPOOL_TEST_MARK"


def alive(mark: str) -> list[str]:
    """The command lines of the running processes that have the mark in them, or inherited it."""
    return [command for process in psutil.process_iter() if (command := _marked(process, mark))]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition; fail the test when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def _marked(process: psutil.Process, mark: str) -> str | None:
    try:
        # In a container nobody may be there to bury the dead.
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        command = " ".join(process.cmdline())
        marked = mark in command or process.environ().get(MARK) == mark
    except psutil.Error:
        return None
    return command if marked else None
