"""The sessions of a server, the pools' and those of others side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from django_connpool.status.activity import Activity, Session
from django_connpool.status.report import Report
from django_connpool.status.text import clean, duration, plural, shorten, wrapped

CLIENTS = 10  # that are listed, those with most sessions first

Sides = tuple[list[Session], list[Session]]


def servers(report: Report) -> dict[tuple[str, ...], Activity]:
    """The servers that told who is connected, by the aliases that are databases of theirs."""
    aliases: dict[str, list[str]] = {}
    told: dict[str, Activity] = {}
    for alias, answer in report.server.items():
        if "error" not in answer and "sessions" in answer:
            aliases.setdefault(answer["started"], []).append(alias)
            told.setdefault(answer["started"], answer)
    return {tuple(names): told[started] for started, names in aliases.items()}


def split(report: Report, aliases: Sequence[str], found: Activity) -> Sides:
    """The sessions of a server that belong to the pools of the report, and the foreign ones."""
    ours = {
        pid
        for process in report.processes
        for pool in process["pools"]
        if set(pool["aliases"]) & set(aliases)
        # Earlier versions tell of their loans only.
        for pid in (
            *pool.get("backends", [loan["backend_pid"] for loan in pool["loans"]]),
            *([pool["listening"]["backend_pid"]] if "listening" in pool else ()),
        )
    }
    sessions = found["sessions"]
    return (
        [session for session in sessions if session["pid"] in ours],
        [session for session in sessions if session["pid"] not in ours],
    )


def render(report: Report, width: int) -> str:
    """For each server how many sessions are in which state, and who the foreign ones are."""
    parts = []
    for aliases, found in servers(report).items():
        ours, foreign = split(report, aliases, found)
        head = f"sessions of the server of {', '.join(map(repr, aliases))}"
        lines = [*_states(ours, foreign), *_clients(foreign, width), *_locks(ours, foreign, width)]
        parts.append("\n".join([head, *lines]))
    return "\n\n".join(parts)


def _states(ours: Sequence[Session], foreign: Sequence[Session]) -> Iterator[str]:
    sides = [Counter(session["state"] for session in side) for side in (ours, foreign)]
    states = sorted({*sides[0], *sides[1]}, key=lambda state: (-sides[0][state], state))
    rows = [(state, *(side[state] for side in sides)) for state in states]
    rows.append(("all", len(ours), len(foreign)))
    wide = max(len(clean(row[0])) for row in [("STATE",), *rows])
    yield f"  {'STATE'.ljust(wide)}  OURS  FOREIGN"
    for state, own, other in rows:
        yield f"  {clean(state).ljust(wide)}  {own:>4}  {other:>7}"


def _clients(foreign: Sequence[Session], width: int) -> Iterator[str]:
    """Who has the foreign sessions, and since when the oldest transaction of each is open."""
    groups: dict[str, list[Session]] = {}
    for session in foreign:
        groups.setdefault(_client(session), []).append(session)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    for who, sessions in ordered[:CLIENTS]:
        ages = [session["transaction"] for session in sessions if session["transaction"]]
        oldest = f", in a transaction for {duration(max(ages))}" if ages else ""
        yield shorten(f"  foreign: {len(sessions)} of {who}{oldest}", width)
    if len(ordered) > CLIENTS:
        yield f"  foreign: {plural(len(ordered) - CLIENTS, 'more client')}"


def _locks(ours: Sequence[Session], foreign: Sequence[Session], width: int) -> Iterator[str]:
    """Whose locks the sessions of the pools wait for, and who that is."""
    known = {session["pid"]: session for session in (*ours, *foreign)}
    waiting = Counter(pid for session in ours for pid in _holders(session, known))
    own = {session["pid"] for session in ours}
    for pid, times in waiting.most_common(CLIENTS):
        wait = "1 session of ours waits" if times == 1 else f"{times} sessions of ours wait"
        text = f"{wait} for a lock of backend {pid}"
        if pid in own:
            text += ", a loan"
        elif pid in known:
            text += f", foreign: {_client(known[pid])}"
        if pid in known:
            session = known[pid]
            age = session["transaction"]
            text += f"; {session['state']}" + (f", transaction of {duration(age)}" if age else "")
        yield from wrapped(clean(text), width, "  ")


def _holders(session: Session, known: Mapping[int, Session]) -> set[int]:
    """Those at the head of the queue in which it waits: they themselves wait for nobody."""
    seen: set[int] = set()
    found: set[int] = set()
    ask = list(session.get("blocked_by") or ())
    while ask:
        pid = ask.pop()
        if pid not in seen:
            seen.add(pid)
            before = known[pid].get("blocked_by") if pid in known else None
            found.update(() if before else (pid,))
            ask += before or ()
    return found


def _client(session: Session) -> str:
    name = session["application"] or "(no application_name)"
    return f"{name} as {session['role']} in {session['database']} from {session['client']}"
