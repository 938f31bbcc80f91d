"""What the demo says: in the terminal, and the same in a browser."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

WIDTH = 100


class Terminal(Console):
    """One whose cursor stays visible: nobody would bring it back after SIGKILL."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Screen:
    """
    Prints, and remembers it for the browser.

    On a terminal a bar shows how far the story has come; anywhere else each step is a line.
    """

    def __init__(self, steps: int, terminal: Console | None = None) -> None:
        self._terminal = terminal or Terminal()
        self._memory = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
        self._progress = Progress(
            SpinnerColumn(),
            # Not rich's red for what is not complete.
            BarColumn(bar_width=20, complete_style="cyan"),
            MofNCompleteColumn(),
            Elapsed(),
            TextColumn("{task.description}", markup=False),
            console=self._terminal,
            transient=True,
            disable=not self._terminal.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps)
        self._step = ""

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        with self._progress:
            yield
        self._step = ""

    def step(self, text: str) -> None:
        """The next step of the story begins, which takes a while; what was the last one is done."""
        self._progress.update(self._task, description=text, advance=1 if self._step else 0)
        self._step = text
        if not self._terminal.is_terminal:
            self._terminal.print(f"... {text}", markup=False, highlight=False, soft_wrap=True)

    def say(self, text: RenderableType = "", style: str = "", *, whole: bool = False) -> None:
        """
        Print a text, or a table; what is in square brackets is text.

        The lines of a text that is whole are not broken, so that they can be copied.
        """
        for console in (self._terminal, self._memory):
            # A browser breaks lines by itself, and a file has no width.
            wide = console is self._memory or not console.is_terminal
            long = isinstance(text, str) and (whole or wide)
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=long)

    def html(self) -> str:
        """All that was said so far, and what is being done, escaped."""
        told = self._memory.export_html(
            theme=DEFAULT_TERMINAL_THEME, code_format="{code}", inline_styles=True, clear=False
        )
        return told + (html.escape(f"\n... {self._step}") if self._step else "")
