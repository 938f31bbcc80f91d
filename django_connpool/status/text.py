"""Small pieces of text, safe to print on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from math import ceil


def clean(text: object) -> str:
    """`text` on one line: what a client put into a path must not reach the terminal as control."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def shorten(text: object, width: int) -> str:
    """`text`, cleaned, in at most `width` characters (of which three say that it goes on)."""
    shown = clean(text)
    return shown if len(shown) <= width else shown[: max(width - 3, 0)] + "..."


def shorten_path(text: object, width: int) -> str:
    """`text`, cleaned, in at most `width` characters: what a path begins with tells least."""
    shown = clean(text)
    return shown if len(shown) <= width else "..." + shown[len(shown) - max(width - 3, 0) :]


def wrapped(text: object, width: int, indent: str) -> list[str]:
    """`text`, cleaned, whole, in lines of at most `width` characters with `indent` before each."""
    room = max(width, len(indent) + 20)
    return textwrap.wrap(clean(text), room, initial_indent=indent, subsequent_indent=indent + "  ")


def duration(seconds: float) -> str:
    """A length of time in at most seven characters."""
    if seconds < 0.9995:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def sparkline(values: Iterable[float], most: float, marks: str) -> str:
    """A small chart: one of `marks`, the lowest first, for each value from 0 to `most`."""
    top = len(marks) - 1
    return "".join(marks[ceil(top * value / max(most, value, 1))] for value in values)


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural_noun or noun + 's'}"
