"""What a process answers: one JSON document, its shape and its version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict, cast

VERSION = 1

_NUMBER = (int, float)
_Shape = Mapping[str, "type | tuple[type, ...]"]
_PROCESS: _Shape = {"pid": int, "host": str, "command": str, "settings": str, "pools": list}
_POOL: _Shape = {
    "alias": str,
    "aliases": list,
    "min_size": int,
    "max_size": int,
    "size": int,
    "idle": int,
    "in_use": int,
    "opening": int,
    "closing": int,
    "waiting": int,
    "longest_wait": _NUMBER,
    "closed": bool,
    "suspended": bool,
    "stats": dict,
    "loans": list,
    "histograms": dict,
}
_HISTOGRAMS: _Shape = {"wait": dict, "hold": dict, "connect": dict}
_HISTOGRAM: _Shape = {"count": int, "sum": _NUMBER, "buckets": dict}
_LOAN: _Shape = {"held": _NUMBER, "thread": str, "backend_pid": int, "transaction": str}


# What each moment of `Pool.history` is a list of. The first is how long ago it began; for the rest
# see pool/history.py.
MOMENT = ("ago", "in_use", "offered", "idle", "waiting", "longest_wait", "timeouts")


class _LaterLoan(TypedDict, total=False):
    """What earlier versions do not tell of a loan."""

    statement: str | None  # its last one, without values
    leak: bool  # longer than `leak_after`, and reported
    number: int  # of the loans of this connection


class Loan(_LaterLoan):
    """One borrower's hold on a connection; `held` is in seconds."""

    held: float
    thread: str
    thread_id: int
    note: str | None
    pinned: str | None  # why it is kept, where others could have it otherwise
    offered: bool  # not used at the moment, and whoever waits may take it
    taken_at: str | None  # the user's line of code, with `leak_after`
    at: str | None  # the one its holder is at now, where that can be told
    backend_pid: int
    transaction: str


class Histogram(TypedDict):
    """Durations in seconds; each bucket, by its upper bound, counts those of no lower one."""

    count: int
    sum: float
    buckets: dict[str, int]


class Outage(TypedDict):
    """How long connecting has failed, and when it did last, in seconds."""

    kind: str  # see pool/outage.py
    since: float
    failed: float
    attempts: int
    young: bool  # borrowers wait for it to end


class Event(TypedDict):
    """Something that went wrong; `ago` is in seconds."""

    ago: float
    times: int
    text: str


class Listening(TypedDict):
    """Who listens beside a pool, on a connection that is none of its, or one that it has lent."""

    channels: list[str]
    listeners: int
    counts: bool  # it is one of the pool's
    backend_pid: int | None  # None while there is no connection
    lost: float | None  # seconds since it was lost, until there is another
    error: str | None  # what keeps it from being there


class Sharer(TypedDict):
    """Another pool that shares a bound, of this process or another."""

    pid: int
    pool: str
    held: int
    waiting: int


class Bound(TypedDict):
    """A bound that a pool shares with others, and who has how much of it."""

    name: str
    of_host: bool
    role: str  # of the work of this pool: "priority", "background" or neither
    most: int  # connections of all together
    reserve: int  # of these, for priority work only
    kept: bool  # or only max_size is, for the state of the host cannot be had
    held: int
    waits: bool
    lost: int  # places whose holder was found dead
    others: list[Sharer]


class _LaterPool(TypedDict, total=False):
    """What earlier versions do not tell of a pool."""

    peak: int  # most in use and in line at a time
    backends: list[int]  # the pids of all open connections
    outage: Outage | None
    history: list[list[float]]  # see `MOMENT`
    events: list[Event]
    listening: Listening  # left out where nobody does
    bounds: list[Bound]  # those that it shares with others


class Pool(_LaterPool):
    """`ConnectionPool.snapshot()` with the aliases it serves; `longest_wait` is in seconds."""

    alias: str
    aliases: list[str]
    name: str
    min_size: int
    max_size: int
    size: int
    idle: int
    in_use: int
    offered: int  # on loan, too; earlier versions count them as in use
    opening: int
    closing: int
    waiting: int
    longest_wait: float
    closed: bool
    suspended: bool
    last_error: str | None
    dead_holders: int  # earlier versions do not tell this, nor closed_for
    stats: dict[str, int]
    loans: list[Loan]
    histograms: dict[str, Histogram]
    closed_for: dict[str, int]  # how many connections, by the reason


class Process(TypedDict):
    """One process; `started` is the Unix time at which it began to answer."""

    version: int
    pid: int
    host: str
    command: str
    settings: str
    project: str  # see status.origin; earlier versions do not tell
    started: float
    pools: list[Pool]


def parse(raw: bytes) -> Process:
    """The document in `raw`. Raises `ValueError` that says what is wrong with it."""
    if not raw:
        raise ValueError("closed the connection without an answer")
    try:
        found = json.loads(raw)
    except ValueError:
        raise ValueError("answered something that is not JSON") from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise ValueError(f"speaks status version {version!r}, this command version {VERSION}")
    _require(found, _PROCESS, "the process")
    for pool in found["pools"]:
        _require(pool, _POOL, "a pool")
        for loan in pool["loans"]:
            _require(loan, _LOAN, "a loan")
        _require(pool["histograms"], _HISTOGRAMS, "the histograms")
        for histogram in pool["histograms"].values():
            _require(histogram, _HISTOGRAM, "a histogram")
    return cast("Process", found)


def _require(part: Any, shape: _Shape, what: str) -> None:
    if not isinstance(part, dict):
        raise ValueError(f"answered without {what}")
    wrong = [key for key, kind in shape.items() if not isinstance(part.get(key), kind)]
    if wrong:
        raise ValueError(f"answered {what} without a usable {', '.join(wrong)}")
