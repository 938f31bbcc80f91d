"""Who listens to a pool's database, as text and as numbers."""

from __future__ import annotations

from django_connpool.status.document import Listening
from django_connpool.status.text import clean, duration, plural


def is_connected(found: Listening) -> bool:
    """Whether what is told reaches them."""
    return found["backend_pid"] is not None and not found["error"]


def line(found: Listening) -> str:
    """For people, in one line."""
    who = plural(found["listeners"], "listener")
    where = "in the pool" if found.get("counts") else "beside the pool"
    if is_connected(found):
        channels = ", ".join(found["channels"])
        text = f"{where}: backend {found['backend_pid']} for {who} to {channels}"
    else:
        since = "" if found["lost"] is None else f" for {duration(found['lost'])}"
        why = f": {found['error']}" if found["error"] else ""
        text = f"{where}: {who} without a connection{since}{why}"
    return clean(" ".join(text.split()))


def numbers(found: Listening) -> dict[str, float]:
    """For metrics: such that those of two pools can be added."""
    return {
        "listeners": found["listeners"],
        "channels": len(found["channels"]),
        "connected": int(is_connected(found)),
        "lost": found["lost"] or 0.0,
    }
