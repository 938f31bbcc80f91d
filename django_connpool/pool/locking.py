"""Does everybody wait for each other?

Work that holds a connection and waits for threads of its own, or for itself through another alias,
until they have one too, gives nothing back meanwhile. Where every connection of a pool is held by
such work, nobody ever gets one (HikariCP calls it pool locking).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from django_connpool.process.cpython import frames_of_threads

if TYPE_CHECKING:
    from .line import Waiter
    from .slot import Slot

LOCKED_AFTER = 0.25  # seconds without anything being given back

# Where a thread is that waits for others, or for work: the modules of its innermost frame.
_WAITING = frozenset(
    {
        *("threading", "queue", "_queue", "concurrent.futures.thread", "concurrent.futures._base"),
        *("asgiref.current_thread_executor", "asgiref.sync"),
    }
)


def is_locked(slots: Collection[Slot], waiters: Collection[Waiter]) -> bool:
    """Whether all of these loans are of work that waits in this line itself, and does nothing else.

    That is known of the work's name, of a thread that waits for itself, and of one that waits
    for the end of a future or thread of its own; not of greenlets, whose stacks cannot be seen.
    """
    notes = {id(waiter.note) for waiter in waiters if waiter.note is not None}
    threads = {waiter.thread for waiter in waiters}
    frames = frames_of_threads()
    try:
        return _is_locked(slots, notes, threads, frames)
    finally:
        # It has this function's own: a circle, which would keep alive all that the others' hold,
        # and what is referred to from elsewhere is not taken back (backends/offering.py).
        frames.clear()


def _is_locked(
    slots: Collection[Slot], notes: set[int], threads: set[int], frames: dict[int, FrameType]
) -> bool:
    awaited: set[int] | None = None
    slots = [slot for slot in slots if not slot.lasts]  # which nobody waits for
    for slot in slots:
        if slot.loans is None or slot.note is None or slot.is_offered:
            return False
        if slot.thread in threads:
            continue
        if getattr(slot.note, "ended", False) or slot.session.is_busy():
            return False
        frame = frames.get(slot.thread)
        if not _is_waiting(frame):
            return False
        if id(slot.note) not in notes:
            if awaited is None:
                awaited = {one for each in threads for one in _work_of(frames.get(each), each)}
            if awaited.isdisjoint(_awaited_by(frame)):
                return False
    return bool(slots)


def _module(frame: FrameType | None) -> str:
    return "" if frame is None else frame.f_globals.get("__name__", "")


def _is_waiting(frame: FrameType | None) -> bool:
    """Whether a thread waits for others, or for work."""
    module = _module(frame)
    if module == "selectors":  # of an event loop
        return frame is not None and _module(frame.f_back).startswith("asyncio.")
    return module in _WAITING


def _awaited_by(frame: FrameType | None) -> Iterator[int]:
    """The futures, by their id(), and the threads whose end this thread waits for."""
    while frame is not None and (module := _module(frame)) in _WAITING:
        one = frame.f_locals.get("self")
        if module == "concurrent.futures._base" and frame.f_code.co_name == "result":
            yield id(one)
        elif module == "threading" and frame.f_code.co_name == "join":
            yield getattr(one, "ident", None) or 0
        frame = frame.f_back


def _work_of(frame: FrameType | None, thread: int) -> Iterator[int]:
    """What others may wait for of a thread: its end, and that of the future it works on."""
    yield thread
    while frame is not None:
        if _module(frame) == "concurrent.futures.thread" and frame.f_code.co_name == "run":
            yield id(getattr(frame.f_locals.get("self"), "future", None))
        frame = frame.f_back


def advice(slots: Iterable[Slot], waiters: Iterable[Waiter]) -> str:
    """What to do about it, for a message."""
    notes = [slot.note for slot in slots] + [waiter.note for waiter in waiters]
    wanted = Counter(id(note) for note in notes if note is not None)
    most = max(2, *wanted.values())  # each has one and waits for one
    return (
        " Everybody waits for each other: whoever holds one has a part of its own work in this "
        "line, so nobody can give back, and time does not heal that. Make max_size at least "
        "threads * (connections that each needs at a time - 1) + 1, which is "
        f"{len(wanted) * (most - 1) + 1} here, or give back before the wait: with "
        "django_connpool.released()."
    )
