"""A terminal on which something is drawn again and again, until a key or Ctrl-C ends it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_CLEAR_SCREEN = "\x1b[H\x1b[2J"
# For a screen that is drawn again: nothing flickers, and nothing moves up into the history.
_TOP = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"

BLOCKS = "▁▂▃▄▅▆▇█"
LETTERS = "_.:-=+*#"  # for a terminal that has no blocks
PIPED = os.terminal_size((100, 24))
# Seconds at most that it waits without a look: a Ctrl-C that comes just before the system's call
# to wait does not end that.
BREATH = 0.5

COLOURS = {"well": "\x1b[32m", "busy": "\x1b[33m", "stuck": "\x1b[1;31m", "down": "\x1b[1;31m"}
_NO_COLOUR = "\x1b[0m"


class Screen:
    """What is written to, and read from, while something is shown."""

    def __init__(self, out: Any, colours: bool | None = None) -> None:
        """`colours`: whether there are any; None: where a terminal shows them and nobody objects.

        `NO_COLOR` in the environment objects, see https://no-color.org.
        """
        self._out = out
        self.is_terminal = bool(out.isatty()) and os.environ.get("TERM") != "dumb"
        if colours is None:
            colours = self.is_terminal and not os.environ.get("NO_COLOR")
        self._has_colours = colours
        self._is_drawn = False
        self._keys: int | None = None  # the descriptor that keys come from

    @property
    def size(self) -> os.terminal_size:
        return shutil.get_terminal_size(PIPED) if self.is_terminal else PIPED

    @property
    def marks(self) -> str:
        """What a sparkline is drawn with."""
        try:
            BLOCKS.encode(getattr(self._out, "encoding", None) or "ascii")
        except (UnicodeError, LookupError):
            return LETTERS
        return BLOCKS

    def paint(self, word: str, text: str) -> str:
        """The text in the colour of a verdict."""
        return f"{COLOURS[word]}{text}{_NO_COLOUR}" if self._has_colours else text

    def write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()  # whoever reads a pipe wants it now, not when the buffer is full

    def draw(self, text: str) -> None:
        """Show lines from the top of the terminal, over those drawn before, without scrolling."""
        lines, height = text.splitlines(), self.size.lines
        if len(lines) >= height:
            hidden = len(lines) - height + 2
            lines = [*lines[: max(height - 2, 0)], f"({hidden} more lines: make the window higher)"]
        start = _TOP if self._is_drawn else _CLEAR_SCREEN
        self._is_drawn = True
        drawn = "".join(f"{_cut(line, self.size.columns)}{_CLEAR_LINE}\n" for line in lines)
        self._out.write(start + drawn + _CLEAR_BELOW, ending="")
        self._out.flush()

    # -- Keys -----------------------------------------------------------------------------

    @contextmanager
    def taking_keys(self) -> Iterator[None]:
        """Each key comes at once and is not shown; at the end the terminal is as it was."""
        with ExitStack() as stack:
            keys = _own_terminal() if self.is_terminal else None
            if keys is not None:
                import termios
                import tty

                before = termios.tcgetattr(keys)
                stack.callback(termios.tcsetattr, keys, termios.TCSADRAIN, before)
                if threading.current_thread() is threading.main_thread():
                    # Else it would end this process before the terminal is as it was.
                    old = signal.signal(signal.SIGTERM, _leave)
                    stack.callback(signal.signal, signal.SIGTERM, old)
                tty.setcbreak(keys)
            self._keys = keys
            yield

    def wait(self, seconds: float) -> bool:
        """Wait so long; False as soon as `q` is pressed."""
        keys = [] if self._keys is None else [self._keys]
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select(keys, [], [], min(left, BREATH))[0]:
                continue
            pressed = os.read(keys[0], 1024)
            if not pressed or b"q" in pressed.lower():  # nothing: the terminal is gone
                return False
        return True


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _own_terminal() -> int | None:
    """The descriptor of the terminal that stdin is, if its keys are for this process."""
    try:
        keys = sys.stdin.fileno()
        # A job in the background that touches its terminal is stopped.
        return keys if os.isatty(keys) and os.tcgetpgrp(keys) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None


def _cut(line: str, columns: int) -> str:
    """What fits of a line; colours take no room."""
    found, room, at = "", columns, 0
    while at < len(line) and room > 0:
        if line[at] == "\x1b":
            end = line.index("m", at) + 1
            found, at = found + line[at:end], end
        else:
            found, at, room = found + line[at], at + 1, room - 1
    return found + _NO_COLOUR if "\x1b" in found else found
