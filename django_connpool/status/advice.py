"""Whether `max_size` suits the server and what was wanted so far: a sentence with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django_connpool.status import sides
from django_connpool.status.activity import Activity
from django_connpool.status.document import Pool
from django_connpool.status.report import Report
from django_connpool.status.text import clean, plural

SLOW = 0.1  # seconds: a wait that somebody may notice


@dataclass(frozen=True)
class Room:
    """How many connections the pools of an alias may have together, and why no more."""

    size: int
    reason: str


@dataclass(frozen=True)
class Demand:
    """What the pools of an alias may open, and what was wanted of them so far."""

    pools: int
    most: int  # connections of all together
    largest: int  # `max_size`
    peak: int  # most borrowers of one pool at a time
    borrows: int
    slow: int  # borrowers that waited for longer than SLOW
    timeouts: int

    @classmethod
    def of(cls, pools: Sequence[Pool]) -> Demand:
        stats = [pool["stats"] for pool in pools]
        return cls(
            pools=len(pools),
            most=sum(pool["max_size"] for pool in pools),
            largest=max(pool["max_size"] for pool in pools),
            peak=max(pool.get("peak", pool["in_use"]) for pool in pools),
            borrows=sum(one.get("requests_num", 0) for one in stats),
            slow=sum(_slow(pool["histograms"]["wait"]["buckets"]) for pool in pools),
            timeouts=sum(one.get("requests_timeouts", 0) for one in stats),
        )


def advise(report: Report) -> dict[str, str]:
    """What to do about the pools of each alias, or why that cannot be told."""
    return {alias: clean(_advise(report, alias)) for alias in report.server}


def _advise(report: Report, alias: str) -> str:
    answer = report.server[alias]
    if "error" in answer:
        return f"{alias}: the server did not say how many it admits: {answer['error']}"
    pools = [pool for process in report.processes for pool in process["pools"]]
    mine = [pool for pool in pools if alias in pool["aliases"]]
    if not mine:
        return f"{alias}: no running process has a pool of it, so there is nothing to go by"
    demand = Demand.of(mine)
    # Two processes of two projects may mean different servers by an alias; one of `--database`
    # is alone here.
    same = next(names for names in sides.servers(report) if alias in names)
    beside = [pool for pool in pools if set(pool["aliases"]) & set(same) and pool not in mine]
    room = _room(report, same, answer, sum(pool["max_size"] for pool in beside))
    what_to_do = " ".join(_sentences(alias, demand, room))
    return f"{alias}: {_count(demand)}; {room.reason}. {_seen(demand)}. {what_to_do}"


def _slow(buckets: dict[str, int]) -> int:
    return sum(n for bound, n in buckets.items() if bound == "+Inf" or float(bound) > SLOW)


def _room(report: Report, same: Sequence[str], found: Activity, beside: int) -> Room:
    """The tightest of the limits on the server, without what others use of it now."""
    _, foreign = sides.split(report, same, found)
    role, database = found["role"], found["database"]
    here = sum(session["database"] == database for session in foreign)
    theirs = sum(session["role"] == role for session in foreign)
    most, reserved = found["max_connections"], found["reserved"]
    rooms = [
        Room(
            most - reserved - len(foreign),
            f"max_connections {most} less {reserved} reserved and {len(foreign)} of others",
        )
    ]
    if found["role_limit"] >= 0:
        text = f"limit of role {role} {found['role_limit']} less {theirs} of others"
        rooms.append(Room(found["role_limit"] - theirs, text))
    if found["database_limit"] >= 0:
        text = f"limit of database {database} {found['database_limit']} less {here} of others"
        rooms.append(Room(found["database_limit"] - here, text))
    tightest = min(rooms, key=lambda room: room.size)
    size, reason = tightest.size - beside, tightest.reason
    if beside:
        reason += f" and {beside} for pools of other aliases"
    return Room(size, f"the server has room for {max(size, 0)} ({reason})")


def _count(demand: Demand) -> str:
    if demand.most == demand.pools * demand.largest:
        return f"{plural(demand.pools, 'pool')} x max_size {demand.largest} = {demand.most} at most"
    return f"{plural(demand.pools, 'pool')} of up to {demand.largest}, {demand.most} at most"


def _seen(demand: Demand) -> str:
    waits = f"{demand.slow} of {demand.borrows} borrowers waited for more than {SLOW * 1000:.0f} ms"
    return (
        f"Seen so far: {demand.peak} wanted at once in one pool, {waits}, {demand.timeouts} in vain"
    )


def _sentences(alias: str, demand: Demand, room: Room) -> Iterator[str]:
    """What to do."""
    each = room.size // demand.pools
    if each < 1:
        lacking = demand.pools - room.size
        yield f"It fits with no max_size: run fewer processes, or raise that limit by {lacking}."
        return
    in_vain = demand.peak > demand.largest and (demand.slow or demand.timeouts)
    fits = demand.most <= room.size
    if fits and not in_vain:
        yield f"It fits: leave max_size at {demand.largest}."
        return
    if fits:
        yield "Too few: borrowers waited while all connections were in use."
    else:
        yield "Too many: when all are in use, the server refuses the rest."
    size = min(demand.peak if in_vain else demand.largest, each)
    if size != demand.largest:
        yield f'Write "max_size": {size} into DATABASES["{alias}"]["OPTIONS"]["pool"].'
    if demand.peak > size:
        lacking = demand.pools * demand.peak - room.size
        yield f"For all {demand.peak} that were wanted, raise that limit by {lacking}."
