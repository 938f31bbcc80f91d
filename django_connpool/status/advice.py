"""Whether `max_size` suits the server and what was wanted so far: a sentence with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django_connpool.status import sides
from django_connpool.status.activity import Activity
from django_connpool.status.document import Bound, Pool
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
    hosts: int
    bound: int  # for all pools of a host together; 0 if there is none
    setting: str  # where that stands
    sharing: int  # pools of other aliases that share it

    @classmethod
    def of(cls, pools: Sequence[Pool], hosts: int = 1, sharing: Sequence[Pool] = ()) -> Demand:
        stats = [pool["stats"] for pool in pools]
        most = sum(pool["max_size"] for pool in (*pools, *sharing))
        bounds = [one for pool in pools if (one := _of_host(pool)) is not None]
        bound = min(one["most"] for one in bounds) if len(bounds) == len(pools) else 0
        return cls(
            pools=len(pools),
            most=min(most, bound * hosts) if bound else most,
            largest=max(pool["max_size"] for pool in pools),
            peak=max(pool.get("peak", pool["in_use"]) for pool in pools),
            borrows=sum(one.get("requests_num", 0) for one in stats),
            slow=sum(_slow(pool["histograms"]["wait"]["buckets"]) for pool in pools),
            timeouts=sum(one.get("requests_timeouts", 0) for one in stats),
            hosts=hosts,
            bound=bound,
            setting=_setting(pools[0]["alias"], bounds[0]["name"] if bounds else ""),
            sharing=len(sharing),
        )

    @property
    def is_bound(self) -> bool:
        """Whether the bound for the host is what keeps the pools from opening more."""
        return self.most == self.bound * self.hosts


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
    hosts = {p["host"] for p in report.processes if any(pool in mine for pool in p["pools"])}
    # Two processes of two projects may mean different servers by an alias; one of `--database`
    # is alone here.
    same = next(names for names in sides.servers(report) if alias in names)
    beside = [pool for pool in pools if set(pool["aliases"]) & set(same) and pool not in mine]
    sharing = [pool for pool in beside if _share(mine[0], pool)]
    demand = Demand.of(mine, len(hosts), sharing)
    own = sum(pool["max_size"] for pool in beside if pool not in sharing)
    room = _room(report, same, answer, own)
    what_to_do = " ".join(_sentences(alias, demand, room))
    return f"{alias}: {_count(demand)}; {room.reason}. {_seen(demand)}. {what_to_do}"


def _of_host(pool: Pool) -> Bound | None:
    """What it shares with the other processes of its host."""
    bounds = pool.get("bounds") or []
    return next((one for one in bounds if one["of_host"] and one["kept"]), None)


def _share(one: Pool, other: Pool) -> bool:
    """Whether two aliases are in one budget of the host."""
    bounds = [bound for bound in map(_of_host, (one, other)) if bound and "'" in bound["name"]]
    return len(bounds) == 2 and bounds[0]["name"] == bounds[1]["name"]


def _setting(alias: str, bound: str) -> str:
    """Where to write a bound for the host: the name of a budget's stands between quotes."""
    if "'" in bound:
        name = bound.split("'", 1)[1].rpartition("'")[0]
        return f'CONNPOOL_BUDGETS["{name}"]'
    return f'DATABASES["{alias}"]["OPTIONS"]["pool"]'


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
    if demand.bound:
        where = f" on each of {demand.hosts} hosts" if demand.hosts > 1 else ""
        shared = f"a host_max_size of {demand.bound}{where}"
        if demand.sharing:
            shared += f" and {plural(demand.sharing, 'pool')} of other aliases in the same budget"
        shared += f" = {demand.most} at most"
        return f"{plural(demand.pools, 'pool')} x max_size {demand.largest}, with {shared}"
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
    if demand.bound:
        yield from _sentences_of_host(alias, demand, room)
        return
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
    if not fits and room.size >= demand.hosts:
        yield (
            f'Or write "host_max_size": {room.size // demand.hosts} there, and leave max_size: '
            "then all processes of a host share that, and each has what it needs."
        )


def _sentences_of_host(alias: str, demand: Demand, room: Room) -> Iterator[str]:
    """The same, where the processes of a host share a bound."""
    each = room.size // demand.hosts
    useful = min(demand.peak, demand.bound)  # more `max_size` than the bound has no effect
    if demand.most > room.size and each < 1:
        lacking = demand.hosts - room.size
        yield f"It fits with no host_max_size: use fewer hosts, or raise that limit by {lacking}."
    elif demand.most > room.size:
        yield "Too many: when all are in use, the server refuses the rest."
        yield f'Write "host_max_size": {each} into {demand.setting}.'
    elif demand.largest < useful and (demand.slow or demand.timeouts):
        yield "Too few: borrowers waited while all connections of a process were in use."
        yield f'Write "max_size": {useful} into DATABASES["{alias}"]["OPTIONS"]["pool"].'
    elif (demand.slow or demand.timeouts) and demand.bound < each and demand.is_bound:
        yield "Too few: borrowers waited while the bound was less than the sum of max_size."
        yield f'There is room for "host_max_size": {each} in {demand.setting}.'
    else:
        yield f"It fits: leave host_max_size at {demand.bound}."
