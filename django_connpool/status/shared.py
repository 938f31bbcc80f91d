"""Bounds that pools share, as text: how many connections there may be, and who has how many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from django_connpool.status.document import Bound, Pool, Process, Sharer
from django_connpool.status.text import clean, plural, wrapped

LISTED = 12  # pools that are named in a line
SHORT = 16  # bytes of a pool's name that other processes know


Key = tuple[str, str, int, bytes]  # host, bound, process, pool
Known = Mapping[Key, Sharer]


def lines(processes: Sequence[Process], width: int) -> Iterator[str]:
    """Each bound once, as one of its pools tells it: what the others have, it knows as well."""
    own = known(processes)
    said: set[Key] = set()
    for process in processes:
        for pool in process["pools"]:
            for bound in pool.get("bounds") or []:
                sharers = _sharers(process, pool, bound, own)
                if next(iter(sharers)) not in said:
                    yield from wrapped(clean(line(process, pool, bound, own)), width, "")
                said.update(sharers)


def known(processes: Iterable[Process]) -> Known:
    """What each pool says of itself. The others know what it had when they last heard of it."""
    return {
        _key(process, bound, process["pid"], pool["name"]): Sharer(
            pid=process["pid"], pool=pool["name"], held=bound["held"], waiting=pool["waiting"]
        )
        for process in processes
        for pool in process["pools"]
        for bound in pool.get("bounds") or []
    }


def line(process: Process, pool: Pool, bound: Bound, own: Known) -> str:
    """One bound, for people."""
    if not bound["kept"]:
        pid = process["pid"]
        return f"{_name(pool, bound)}: not kept by pid {pid}, see its log; only max_size is"
    sharers = _sharers(process, pool, bound, own).values()
    found = [one for one in sharers if one["held"] or one["waiting"]]
    found.sort(key=lambda one: (-one["held"], one["pid"], one["pool"]))
    used = sum(one["held"] for one in found)
    text = f"{_name(pool, bound)}: {used} of {bound['most']} connections are open"
    if bound["reserve"]:
        text += f", {bound['reserve']} of them reserved for priority work"
    are_named = len({_short(one["pool"]) for one in found}) > 1
    who = [_has(one, are_named) for one in found[:LISTED]]
    if len(found) > LISTED:
        who.append(plural(len(found) - LISTED, "more pool"))
    return "; ".join([text, *who])


def _sharers(process: Process, pool: Pool, bound: Bound, own: Known) -> dict[Key, Sharer]:
    """The pools that share it, this one first."""
    pids = [(process["pid"], pool["name"]), *((one["pid"], one["pool"]) for one in bound["others"])]
    keys = [_key(process, bound, *pid) for pid in pids]
    mine = own[keys[0]]
    return {key: own.get(key, one) for key, one in zip(keys, (mine, *bound["others"]), strict=True)}


def _key(process: Process, bound: Bound, pid: int, pool: str) -> Key:
    return process["host"], bound["name"], pid, _short(pool)


def _has(one: Sharer, is_named: bool) -> str:
    """What a pool has, with its name where the pools have several."""
    who = f"pid {one['pid']} in {one['pool']}" if is_named else f"pid {one['pid']}"
    return f"{who} has {one['held']}" + (f", {one['waiting']} in line" if one["waiting"] else "")


def _name(pool: Pool, bound: Bound) -> str:
    if bound["name"].startswith("budget"):
        return bound["name"]
    return f"{bound['name']} of {pool['alias']}"


def _short(pool: str) -> bytes:
    return pool.encode()[:SHORT]
