"""The text of a timeout: the numbers, the holders, what connecting last said, the way out."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django_connpool.process import userline, uwsgi
from django_connpool.process.cpython import frames_of_threads

if TYPE_CHECKING:
    from .slot import Slot

GIVEN_BACK = "a connection was given back in %s by %s%s%s; %s"
SLOW = 1.0  # seconds that an attempt to connect may take, and not be told of
LISTED = 10  # holders named in a message


def thread_name(ident: int) -> str:
    """The name of a thread, or its number when it is gone."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return f"thread {ident} (ended)"


def name_of(owner: Any) -> str:
    """Whose loan it is, or who stands in line: a task, or else a thread."""
    return owner.task_name or thread_name(owner.thread)


def locate(loans: list[dict[str, Any]], most: int | None = None) -> None:
    """Tell of each loan, or of the `most` longest, which line of the user's its holder is at.

    `at` is that line afterwards, and before what the loan is for.
    """
    frames = frames_of_threads()
    try:
        for number, loan in enumerate(sorted(loans, key=lambda loan: -loan["held"])):
            wanted = most is None or number < most
            note, loan["at"] = loan["at"], None
            if wanted:
                loan["at"] = userline.of_thread(loan["thread_id"], note, frames) or None
    finally:
        frames.clear()  # it has this function's own: a circle, with all that the others' hold


def holders(loans: list[dict[str, Any]]) -> str:
    """One clause for each holder, longest first; none for who would let others have it."""
    loans = [loan for loan in loans if not loan["offered"]]
    lines = []
    for loan in sorted(loans, key=lambda loan: -loan["held"])[:LISTED]:
        what = f", {loan['note']}" if loan["note"] else ""
        at = loan.get("at")
        lines.append(
            f"{loan['thread']!r} for {loan['held']:.2f} s{what}{f', at {at}' if at else ''}"
        )
    if len(loans) > LISTED:
        lines.append(f"and {len(loans) - LISTED} more")
    return "; ".join(lines)


def given_back(slot: Slot, left: str, in_transaction: bool) -> tuple[str, ...]:
    """What GIVEN_BACK needs to tell of a loan that ends in the middle of something."""
    last = slot.session.last_statement()
    return (
        left if in_transaction else f"the middle of {left}",
        (slot.loans and slot.loans.task_name) or thread_name(threading.get_ident()),
        slot.purpose(),
        last and f", after: {last}",
        "rolling back" if in_transaction else "closing it",
    )


def _bound(bound: dict[str, Any]) -> str:
    """Who has the places of a bound that is shared."""
    theirs = sum(other["held"] for other in bound["others"])
    return (
        f" It waits for a place of {bound['name']}: of {bound['most']} it has {bound['held']}, "
        f"{theirs} are with other pools, {bound['reserve']} are reserved for priority work."
    )


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
    if held := holders(snapshot["loans"]):
        text += f" On loan to {held}."
    if any(loan["thread_id"] == threading.get_ident() for loan in snapshot["loans"]):
        text += " This thread holds one of them itself, and waits for another."
    if snapshot["last_error"]:
        text += f" Connecting last failed with: {snapshot['last_error']}."
    elif full := [bound for bound in snapshot.get("bounds", ()) if bound["waits"]]:
        text += "".join(map(_bound, full))
    elif snapshot["in_use"] >= snapshot["max_size"]:
        text += " Give connections back sooner, or raise max_size."
    if uwsgi.stands_still():
        text += f" {uwsgi.STANDS_STILL} {uwsgi.HINT}"
    return text


def connecting(attempts: Iterable[float]) -> str:
    """What to say of attempts to connect that have lasted so long, and not ended."""
    longest = max(attempts, default=0.0)
    if longest < SLOW:
        return ""
    return (
        f" An attempt to connect has not ended for {longest:.1f} s: it waits for the network, the "
        "server, or a function of yours (credentials, configure)."
    )
