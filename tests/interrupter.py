"""An interrupt at a chosen line of the code under test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupter:
    """Raises `error` at the n-th line of the code under test that this thread runs.

    `concerns` tells which frames are of that code, `is_safe` where no interrupt strikes. `where`
    says afterwards at which lines it struck, innermost first; it is empty when there were fewer.
    """

    def __init__(
        self,
        n: int,
        error: type[BaseException],
        concerns: Callable[[FrameType], bool],
        is_safe: Callable[[FrameType], bool],
    ) -> None:
        self.left = n
        self.error = error
        self.where = ""
        self._concerns = concerns
        self._is_safe = is_safe

    def __enter__(self) -> Interrupter:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._concerns(frame):
            return None
        if event == "line" and not self._is_safe(frame):
            self.left -= 1
            if not self.left:
                sys.settrace(None)
                self.where = " < ".join(trail(frame, self._concerns))
                self.strike()
                return None
        return self._trace

    def strike(self) -> None:
        raise self.error


def trail(frame: FrameType | None, concerns: Callable[[FrameType], bool]) -> list[str]:
    """The lines of the code under test that are running, innermost first."""
    lines = []
    while frame is not None and concerns(frame):
        lines.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return lines
