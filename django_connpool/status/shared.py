"""Bounds that pools share, as text: how many connections there may be, and who has how many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django_connpool.status.document import Bound, Pool, Process
from django_connpool.status.text import clean, plural, wrapped

LISTED = 12  # pools that are named in a line


def lines(processes: Iterable[Process], width: int) -> Iterator[str]:
    """Each bound once, as one of its pools tells it: what the others have, it knows as well."""
    said = set()
    for process in processes:
        for pool in process["pools"]:
            for bound in pool.get("bounds") or []:
                key = (bound["name"], tuple(sorted(members(process["pid"], pool, bound))))
                if key not in said:
                    said.add(key)
                    yield from wrapped(clean(line(process["pid"], pool, bound)), width, "")


def members(pid: int, pool: Pool, bound: Bound) -> list[tuple[int, int, int]]:
    """The pid of each pool that shares it, what it has, and how many wait in it."""
    others = [(one["pid"], one["held"], one["waiting"]) for one in bound["others"]]
    return [(pid, bound["held"], pool["waiting"]), *others]


def line(pid: int, pool: Pool, bound: Bound) -> str:
    """One bound, for people."""
    if not bound["kept"]:
        return f"{_name(pool, bound)}: not kept by pid {pid}, see its log; only max_size is"
    found = [one for one in members(pid, pool, bound) if one[1] or one[2]]
    found.sort(key=lambda one: (-one[1], one[0]))
    used = sum(held for _, held, _ in found)
    text = f"{_name(pool, bound)}: {used} of {bound['most']} connections are open"
    if bound["reserve"]:
        text += f", {bound['reserve']} of them reserved for priority work"
    who = [
        f"pid {number} has {held}" + (f", {waiting} in line" if waiting else "")
        for number, held, waiting in found[:LISTED]
    ]
    if len(found) > LISTED:
        who.append(plural(len(found) - LISTED, "more pool"))
    return "; ".join([text, *who])


def _name(pool: Pool, bound: Bound) -> str:
    if bound["name"].startswith("budget"):
        return bound["name"]
    return f"{bound['name']} of {pool['alias']}"
