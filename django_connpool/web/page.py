"""The page for people: each process of the host, its pools, who holds what, what went wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.template import Context, Engine
from django.urls import NoReverseMatch, reverse
from django.utils.cache import patch_cache_control
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_safe

import django_connpool
from django_connpool.status import listeners, readiness, shared
from django_connpool.status.collect import Collected, of_host
from django_connpool.status.document import Loan, Pool, Process
from django_connpool.status.text import clean, duration, plural
from django_connpool.web import access, acting, charts
from django_connpool.web.views import open_to_all, quiet, text

FILES = Path(__file__).parent / "files"
ASSETS = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Nothing from elsewhere, and nothing that stands in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
NO_WAY_BACK = (
    "This pool is asked who you are: nobody could resume it here. "
    "Use `manage.py poolstatus suspend`."
)
FEW = 12  # pools, of which each is shown whole, however quiet it is
LOANS = 20  # of a pool that are shown
EVENTS = 5

_TRANSACTIONS = {
    "IDLE": "between two statements",
    "ACTIVE": "a statement runs",
    "INTRANS": "in a transaction",
    "INERROR": "in a failed transaction",
    "UNKNOWN": "broken",
}
_engine = Engine(dirs=[str(FILES)])


@dataclass
class ShownLoan:
    """A loan in words."""

    held: str
    what: str
    state: str
    thread: str
    backend_pid: int
    at: str
    taken_at: str
    statement: str
    pinned: str
    is_offered: bool
    is_leak: bool
    is_running: bool
    number: int | str


@dataclass
class ShownPool:
    """A pool in words and charts."""

    key: str  # for the browser
    name: str
    pid: int
    pool: Pool
    trouble: readiness.Trouble | None
    states: list[str]
    outage: str
    longest_wait: str
    connections: SafeString
    waiting: SafeString
    loans: list[ShownLoan]
    more_loans: int
    leaks: int
    bounds: list[str]
    listening: str
    events: list[dict[str, Any]]
    is_quiet: bool
    has_charts: bool


@dataclass
class ShownProcess:
    """A process and its pools, those in trouble first."""

    process: Process
    command: str
    is_this: bool
    pools: list[ShownPool] = field(default_factory=list)
    quiet: list[ShownPool] = field(default_factory=list)


# -- The views ----------------------------------------------------------------------------


@quiet()
@csrf_protect
def page(request: HttpRequest) -> HttpResponse:
    """The pools of all processes of the host."""
    if not access.may_see(request):
        return _closed(request)
    return _render("page.html", _context(request))


@quiet("POST")
@csrf_protect
def act(request: HttpRequest) -> HttpResponse:
    """One of the page's buttons; the page says what came of it."""
    if not access.may_act(request):
        return text(["Only a superuser, or who has CONNPOOL_ACT_PERMISSION, acts."], status=403)
    if request.POST.get("do") == "suspend" and access.looks_up_users(request.POST.get("pool", "")):
        said = acting.seal(False, NO_WAY_BACK)
    else:
        said = acting.seal(*acting.act(request))
    return HttpResponseRedirect(f"./?{urlencode({'said': said})}")


@quiet("POST")
@csrf_protect
def enter(request: HttpRequest) -> HttpResponse:
    """Somebody has typed the token."""
    if not access.is_token(request.POST.get("token", "")):
        return _closed(request, wrong=True)
    response = HttpResponseRedirect("./")
    access.remember_token(request, response, _address(request))
    return response


@open_to_all
@require_safe
def asset(request: HttpRequest, name: str) -> HttpResponse:
    """A style, a script, a picture: the same for all, and nothing of anybody's."""
    response = HttpResponse((FILES / name).read_bytes(), content_type=ASSETS[name])
    patch_cache_control(response, public=True, max_age=86400)  # their address has the version
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _closed(request: HttpRequest, wrong: bool = False) -> HttpResponse:
    """How to get in: by logging in, or with the token where the database cannot be asked."""
    can_ask = access.can_ask()
    context = {
        "can_ask": can_ask,
        "has_users": hasattr(request, "user"),
        "has_token": bool(access.token()),
        "wrong": wrong,
        "login": _login(request),
        "csrf_token": get_token(request) if access.token() else "",
    }
    status = 403 if can_ask or not hasattr(request, "user") else 503
    return _render("closed.html", context, status)


def _address(request: HttpRequest) -> str:
    """Where the page is, of which this may be a part."""
    return request.path.rpartition("/")[0] + "/"


def _login(request: HttpRequest) -> str:
    """Where staff logs in; empty where that cannot be told."""
    try:
        return f"{reverse('admin:login')}?{urlencode({'next': _address(request)})}"
    except NoReverseMatch:
        return ""


def _render(name: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    given = {"version": django_connpool.__version__, **context}
    shown = _engine.get_template(name).render(Context(given, use_l10n=False))
    response = HttpResponse(shown, status=status)
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["Referrer-Policy"] = "same-origin"
    return response


# -- What is on it ------------------------------------------------------------------------


def _context(request: HttpRequest) -> dict[str, Any]:
    found = of_host()
    may_act = access.may_act(request)
    said = acting.unseal(request.GET["said"]) if "said" in request.GET else None
    processes = show(found)
    troubles = [
        (shown, pool) for shown in processes for pool in shown.pools if pool.trouble is not None
    ]
    return {
        "processes": processes,
        "troubles": troubles,
        "summary": _summary(processes, len(troubles)),
        "host": clean(found.processes[0]["host"]),
        "silent": [clean(silence) for silence in found.silent],
        "refused": [clean(refusal) for refusal in found.refused],
        "minutes": charts.minutes(),
        "said": said,
        "may_act": may_act,
        "csrf_token": get_token(request) if may_act else "",
        "admin": _admin_index(),
    }


def show(found: Collected) -> list[ShownProcess]:
    """The processes, this one first, as the page shows them."""
    limits = readiness.Limits.from_settings()
    pools = sum(len(process["pools"]) for process in found.processes)
    known = shared.known(found.processes)
    shown = []
    for process in found.processes:
        one = ShownProcess(process, clean(process["command"]), process["pid"] == os.getpid())
        for number, pool in enumerate(process["pools"]):
            seen = _pool(process, number, pool, limits, known)
            (one.quiet if seen.is_quiet and pools > FEW else one.pools).append(seen)
        one.pools.sort(
            key=lambda seen: (seen.trouble is None, not seen.leaks, seen.is_quiet, seen.name)
        )
        one.quiet.sort(key=lambda seen: seen.name)
        shown.append(one)
    return shown


def _pool(
    process: Process, number: int, pool: Pool, limits: readiness.Limits, known: shared.Known
) -> ShownPool:
    seen = charts.moments(pool.get("history", []))
    trouble = readiness.judge(pool, limits)
    loans = sorted(pool["loans"], key=lambda loan: -loan["held"])
    events = pool.get("events", [])
    listening = pool.get("listening")
    has_waited = any(one["waiting"] or one["timeouts"] for one in seen.values())
    return ShownPool(
        key=f"{process['pid']}-{number}",
        name=clean(", ".join(pool["aliases"]) or pool["alias"]),
        pid=process["pid"],
        pool=pool,
        trouble=trouble,
        states=[*_states(pool)],
        outage=_outage(pool),
        longest_wait=duration(pool["longest_wait"]) if pool["waiting"] else "-",
        connections=charts.connections(seen, pool["max_size"]),
        waiting=charts.waiting(seen, pool["max_size"]),
        loans=[_loan(loan) for loan in loans[:LOANS]],
        more_loans=max(0, len(loans) - LOANS),
        leaks=sum(bool(loan.get("leak")) for loan in loans),
        bounds=[clean(shared.line(process, pool, one, known)) for one in pool.get("bounds", [])],
        listening=listeners.line(listening) if listening else "",
        events=[
            {
                "ago": duration(event["ago"]),
                "times": "" if event["times"] == 1 else f"{event['times']} times",
                "text": clean(event["text"]),
            }
            for event in events[:EVENTS]
        ],
        is_quiet=not (
            trouble
            or loans
            or pool["waiting"]
            or pool["suspended"]
            or has_waited
            or (listening and not listeners.is_connected(listening))
        ),
        has_charts=bool(seen),
    )


def _states(pool: Pool) -> Iterator[str]:
    if pool["closed"]:
        yield "closed"
    if pool["suspended"]:
        yield "suspended: nothing is lent until it is resumed"
    for state in ("opening", "closing"):
        if count := pool[state]:
            yield f"{count} {state}"


def _outage(pool: Pool) -> str:
    """An outage in plain words, and what the server said."""
    said, outage = pool.get("last_error"), pool.get("outage")
    if not said:
        return ""
    if outage is None:
        return clean(f"The server says no: {said}")
    words = readiness.in_words(outage)
    if outage["young"]:
        words += "; borrowers wait for it to end"
    return clean(f"{words[0].upper()}{words[1:]}. The server, or the way to it, said: {said}")


def _loan(loan: Loan) -> ShownLoan:
    return ShownLoan(
        held=duration(loan["held"]),
        what=clean(loan.get("note") or "no request"),
        state=_TRANSACTIONS.get(loan["transaction"], clean(loan["transaction"].lower())),
        thread=clean(loan["thread"]),
        backend_pid=loan["backend_pid"],
        at=clean(loan.get("at") or ""),
        taken_at=clean(loan.get("taken_at") or ""),
        statement=clean(loan.get("statement") or ""),
        pinned=clean(loan.get("pinned") or ""),
        is_offered=bool(loan.get("offered")),
        is_leak=bool(loan.get("leak")),
        is_running=loan["transaction"] == "ACTIVE",
        number=loan.get("number", ""),
    )


def _summary(processes: Sequence[ShownProcess], troubles: int) -> str:
    pools = sum(len(shown.process["pools"]) for shown in processes)
    of = f"{plural(pools, 'pool')} in {plural(len(processes), 'process', 'processes')}"
    seen = [seen for shown in processes for seen in (*shown.pools, *shown.quiet)]
    leaks = sum(one.leaks for one in seen)
    leaking = f" {plural(leaks, 'loan')} held for longer than leak_after." if leaks else ""
    # `ready` does not mind these, but all is not well.
    suspended = sum(one.pool["suspended"] for one in seen if not one.trouble)
    failed = sum(bool(one.outage) for one in seen if not one.trouble)
    idle = f" {plural(suspended, 'pool')} suspended." if suspended else ""
    idle += f" {plural(failed, 'pool')} could not connect at the last attempt." if failed else ""
    if not pools:
        return f"No pool yet: {of}."
    if troubles:
        return f"{plural(troubles, 'pool')} in trouble, of {of}.{leaking}{idle}"
    if idle:
        return f"No pool in trouble: {of}.{leaking}{idle}"
    return f"Every pool serves: {of}.{leaking}" if leaks else f"All is well: {of}."


def _admin_index() -> str:
    try:
        return reverse("admin:index")
    except NoReverseMatch:
        return ""
