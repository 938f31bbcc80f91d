"""The text of a timeout: the numbers, the holders, what connecting last said, the way out."""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType
from typing import Any

_LIBRARY = tuple(
    os.path.dirname(os.path.abspath(sys.modules[name].__file__ or "")) + os.sep
    for name in ("threading", "psycopg", "django_connpool")
    if name in sys.modules
)
_LISTED = 10  # holders named in a message


def thread_name(ident: int) -> str:
    """The name of a thread, or its number when it is gone."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return f"thread {ident} (ended)"


def where(ident: int) -> str:
    """The line of code a thread is at now: the innermost one that is not a library's."""
    frame = sys._current_frames().get(ident)
    if frame is None:
        return ""
    best = innermost_of_the_user(frame) or frame
    return f"{best.f_code.co_filename}:{best.f_lineno} in {best.f_code.co_name}"


def innermost_of_the_user(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that runs code of neither this package nor any other installed one."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARY) and f"{os.sep}site-packages{os.sep}" not in name:
            return frame
        frame = frame.f_back
    return None


def holders(loans: list[dict[str, Any]]) -> str:
    """One clause for each holder, longest first."""
    lines = []
    for loan in sorted(loans, key=lambda loan: -loan["held"])[:_LISTED]:
        what = f", {loan['note']}" if loan["note"] else ""
        at = where(loan["thread_id"])
        lines.append(f"{loan['thread']!r} for {loan['held']:.2f} s{what}{at and f', at {at}'}")
    if len(loans) > _LISTED:
        lines.append(f"and {len(loans) - _LISTED} more")
    return "; ".join(lines)


def timeout(snapshot: dict[str, Any], waited: float) -> str:
    """Tell why no connection became free in `waited` seconds, from the pool's snapshot."""
    text = (
        f"pool {snapshot['name']!r}: no connection became free within {waited:.2f} s; "
        f"{snapshot['size']} of at most {snapshot['max_size']} open, "
        f"{snapshot['in_use']} on loan, {snapshot['opening']} being opened, "
        f"{snapshot['waiting']} more waiting."
    )
    if snapshot["suspended"]:
        text += " The pool is suspended: call resume()."
    if snapshot["loans"]:
        text += f" On loan to {holders(snapshot['loans'])}."
    if any(loan["thread_id"] == threading.get_ident() for loan in snapshot["loans"]):
        text += " This thread holds one of them itself, and waits for another."
    if snapshot["last_error"]:
        text += f" Connecting last failed with: {snapshot['last_error']}."
    elif snapshot["in_use"] >= snapshot["max_size"]:
        text += " Give connections back sooner, or raise max_size."
    return text
