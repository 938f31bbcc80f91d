"""What tests see of the inside of the package: the one file that knows its private names.

A test looks from outside wherever it can: at `pool.snapshot()`, at `get_stats()`, at what the
server counts, at what is called. What it can only see inside it asks for here, by a name that
says what is meant, so that whoever rebuilds the package changes this file and no test.
`tests/project/test_privates.py` sees to it.
"""

from __future__ import annotations

import math
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

# Also, for the tests of one part of the pool each, what that is made of.
from django_connpool import connection_pool, registry
from django_connpool.places import folder, ledger  # noqa: F401
from django_connpool.places import policy as rules  # noqa: F401
from django_connpool.places import table as tables  # noqa: F401
from django_connpool.places import tenant as places
from django_connpool.pool import (  # noqa: F401
    checking,
    core,
    crew,
    explain,
    growth,
    line,
    locking,
    offers,
    outage,
    sharing,
    slot,
)
from django_connpool.pool import pool as pool_module
from django_connpool.pool import slots as slots_module
from django_connpool.pool import stats as stats_module  # noqa: F401
from django_connpool.pool.growth import PATIENCE, worth_opening  # noqa: F401
from django_connpool.pool.history import EVENTS, EVERY, KEPT, History  # noqa: F401
from django_connpool.pool.line import Waiter  # noqa: F401
from django_connpool.pool.outage import (  # noqa: F401
    FIRST_RETRY,
    FORGOTTEN,
    FULL,
    LAST_RETRY,
    LAZY_RETRY,
    REFUSED,
    STARTING,
    YOUNG_RETRY,
    again,
)
from django_connpool.pool.stats import BOUNDS, Histogram, Stats  # noqa: F401
from django_connpool.process import background as background_module
from django_connpool.process import (
    cpython,
    forks,  # noqa: F401
    threads,  # noqa: F401
    userline,  # noqa: F401
    uwsgi,
)
from django_connpool.process.background import Background, background
from django_connpool.redaction import (  # noqa: F401
    LONGEST,
    named,
    one_line,
    public,
    without_values,
)
from django_connpool.session import (  # noqa: F401
    changes,
    cleaning,
    cursors,
    foreign,
    fronts,
    private,
    riding,
    roles,
    session,
    statements,
    twin,
)
from django_connpool.session.closing import await_end, end_of, say_goodbye  # noqa: F401
from django_connpool.session.hidden import find, query  # noqa: F401
from django_connpool.session.parameters import KEEPALIVES, completed  # noqa: F401
from django_connpool.session.refusals import heals, kind_of, meaning  # noqa: F401
from django_connpool.session.statements import (  # noqa: F401
    ANYTHING,
    CALLS,
    CHANNELS,
    CURSORS,
    DIRT,
    ENDS,
    FOREVER,
    LOCKS,
    NAMES,
    PREPARED,
    READS_SEQUENCES,
    ROLES,
    SEQUENCES,
    SETTINGS,
    STICKS,
    TEMP,
    WRITES,
    Judge,
    kinds,
)


class Outage(outage.Outage):
    """An outage, told only the errors: what they mean is found out."""

    def __init__(  # type: ignore[no-untyped-def]
        self, error: BaseException, now: float, kind: str = "", **young: float
    ):
        meant, may_heal = meaning(error)
        super().__init__(error, now, kind or meant, may_heal, **young)

    def another(  # type: ignore[override]
        self, error: BaseException, now: float, *meant: Any, asked: bool, **began: float
    ) -> None:
        super().another(error, now, *(meant or meaning(error)), asked=asked, **began)


patience = growth.patience
WaitQueue = line.Line

NEVER = math.inf  # as a moment of the monotonic clock
COUNT_AT = core.COUNT_AT  # loans of a connection, after which those noted are counted

# -- A pool -------------------------------------------------------------------------------


def lock(pool: Any) -> Any:
    """The pool's lock, to do something inside it as a finalizer or a signal handler does."""
    return pool._core.lock


def set_lock(pool: Any, lock: Any) -> None:
    """Give the pool another lock."""
    pool._core.lock, pool._core.is_inside = lock, cpython.ownership(lock)


def is_locked(pool: Any) -> bool:
    """Whether this thread has the pool's lock."""
    return bool(pool._core.is_inside())


def clock(pool: Any) -> Callable[[], float]:
    """The pool's clock: call it for the time."""
    return pool._core.clock  # type: ignore[no-any-return]


def set_clock(pool: Any, clock: Callable[[], float]) -> None:
    """Give the pool another clock."""
    pool._core.clock = clock


def change(pool: Any, **options: Any) -> None:
    """Change options of a pool that is there already.

    `check`, `reset`: what the option says, when it is a callable. `ping_after`: seconds of
    idleness after which a connection is checked. `cleans_always`: each session, not only one that
    looks changed. `restores`: sessions that were changed; else `reset` is called. `strict`: a
    transaction left open is an error. `describe`: what is noted of whoever borrows.
    """
    policy, limits = pool._opening.policy, pool._core.limits
    for name, value in options.items():
        if name == "check":
            limits.has_check, policy.check = callable(value), value
        elif name == "describe":
            pool._core.describe = value
        elif name in ("ping_after", "strict"):
            setattr(limits, name, value)
        elif name in ("reset", "restores"):
            setattr(policy, name, value)
        else:
            assert name == "cleans_always"
            policy.cleans_each = value


def is_suspended(pool: Any) -> bool:
    """Whether `suspend` was called, and `resume` not yet."""
    return bool(pool._core.suspended)


def is_in_outage(pool: Any) -> bool:
    """Whether the last attempt to connect failed."""
    return pool._core.outage is not None


def age_of_outage(pool: Any) -> float:
    """For how many seconds connecting has failed."""
    return float(pool._core.clock() - pool._core.outage.since)


def retries_at(pool: Any) -> float:
    """When the pool asks a server that is down again; never, when it is up."""
    return NEVER if pool._core.outage is None else float(pool._core.outage.retry_at)


def has_news(pool: Any) -> bool:
    """Whether there is something that the pool has to tell, and has not told yet."""
    return bool(pool._core.warnings) or pool._core.news.is_out


def has_leftovers(pool: Any) -> bool:
    """Whether the pool has notes of something half done, and nobody has read them yet."""
    return bool(pool._core.inbox)


def has_put_off(pool: Any) -> bool:
    """Whether there is something left that a signal handler asked for inside the lock."""
    mending = (core.Core.audit, core.Core.reclaim, core.Core.take_back)
    return any(note[0] not in mending for note in list(pool._core.inbox))


def lose_notes(pool: Any) -> None:
    """Have the notes be lost that somebody has left, as when an interrupt strikes a finalizer."""
    pool._core.inbox.clear()


def tick(pool: Any) -> None:
    """Have the pool look around, as the background thread does now and then."""
    pool._upkeep.run(0.0)


def read_notes(pool: Any) -> None:
    """Do what the notes say, as whoever takes the lock next for long does."""
    with pool._core.lock:
        pool._core.catch_up()


def ticking_by(pool: Any, wrap: Callable[[Callable[[], float]], float]) -> Callable[[], None]:
    """Have the background thread call `wrap` with what it would call; return what ends this."""
    run = pool._upkeep.run
    pool._upkeep.run = lambda now: wrap(partial(run, now))
    return partial(delattr, pool._upkeep, "run")


def is_waited_for(pool: Any) -> bool:
    """Whether somebody is in `wait`."""
    return bool(pool._core.full)


def uncounted(pool: Any) -> dict[str, int]:
    """How many durations of each kind were noted, and not counted yet."""
    stats = pool._core.stats
    return {kind: len(getattr(stats, kind)._noted) for kind in ("wait", "hold", "connect")}


def mean_hold(pool: Any) -> float | None:
    """The seconds that loans last, as the pool believes when it asks whether to open one more."""
    return pool._core.stats.mean_hold()  # type: ignore[no-any-return]


def believes(pool: Any, *, hold: float, connect: float) -> None:
    """Have the pool believe that loans, and connecting, take so many seconds."""
    pool._core.stats.hold.count()
    pool._core.stats.hold.mean, pool._core.mean_connect = hold, connect


# -- Its slots ----------------------------------------------------------------------------


def slots(pool: Any) -> set[Any]:
    """Every place taken, in whatever state; a copy."""
    return set(pool._core.slots.all)


def idle(pool: Any) -> list[Any]:
    """The slots that wait to be lent: the last is lent first; a copy."""
    return list(pool._core.slots.idle)


def opening(pool: Any) -> set[Any]:
    """The slots whose connections are being opened; a copy."""
    return set(pool._core.slots.opening)


def closing(pool: Any) -> set[Any]:
    """The slots whose connections are being closed, or are to be; a copy."""
    return set(pool._core.slots.closing)


def to_close(pool: Any) -> list[Any]:
    """Those that are to be closed, and that no worker has taken up; a copy."""
    return list(pool._core.slots.to_close)


def on_loan(pool: Any) -> set[Any]:
    """The slots that are lent, or handed to a waiter."""
    return {one for one in pool._core.slots.all if one.state in slot.ON_LOAN}


def lent(pool: Any) -> set[Any]:
    """The slots that somebody has accepted, and not given back."""
    return {one for one in pool._core.slots.all if one.state is slot.LOAN}


def given_up(pool: Any) -> set[Any]:
    """The slots on loan of which the pool knows that they come back by themselves."""
    return {
        note[1] for note in list(pool._core.inbox) if isinstance(note[1:2] and note[1], slot.Slot)
    }


def assert_states(pool: Any) -> None:
    """Each slot is in exactly one state, and wherever that is noted besides it is the same."""
    states = (slot.IDLE, slot.LOAN, slot.HANDED, slot.OPENING, slot.CLOSING)
    found = {state: {one for one in pool._core.slots.all if one.state is state} for state in states}
    assert set().union(*found.values()) == pool._core.slots.all
    assert len(set(pool._core.slots.idle)) == len(pool._core.slots.idle)
    assert set(pool._core.slots.idle) == found[slot.IDLE]
    assert pool._core.slots.opening == found[slot.OPENING]
    assert pool._core.slots.closing == found[slot.CLOSING]
    assert set(pool._core.slots.to_close) <= pool._core.slots.closing
    assert all(one.session.conn is not None for one in pool._core.slots.idle)
    assert pool._core.slots.on_loan() == len(found[slot.LOAN]) + len(found[slot.HANDED])


def assert_all_idle(pool: Any) -> None:
    """Every slot is idle, and once among those that are lent next."""
    assert {one.state for one in pool._core.slots.all} <= {slot.IDLE}
    assert sorted(map(id, pool._core.slots.idle)) == sorted(map(id, pool._core.slots.all))


def slot_of(conn: Any) -> Any:
    """The slot of a connection that is on loan."""
    return conn._slot


def is_lent(conn: Any) -> bool:
    """Whether the connection is somebody's loan."""
    return bool(conn._slot.state is slot.LOAN)


def pgconn_of(one: Any) -> Any:
    """The libpq connection in a slot."""
    return one.session.pgconn


def conn_of(one: Any) -> Any:
    """The connection in a slot, lent or not."""
    return one.session.reachable()


def retires_at(one: Any) -> float:
    """When the connection in a slot has lived long enough."""
    return float(one.retire_at)


def life(one: Any) -> float:
    """How many seconds the connection in a slot may live."""
    return float(one.retire_at - one.opened_at)


def vets_at(one: Any) -> float:
    """From when on the connection in a slot is looked at before it is lent."""
    return float(one.vet_at)


def pings(monkeypatch: Any) -> list[Any]:
    """A list that becomes longer with each ping on behalf of a borrower."""
    asked: list[Any] = []
    answers = session.Session.answers

    def counted(*args: Any) -> bool:
        asked.append(args)
        return answers(*args)

    monkeypatch.setattr(session.Session, "answers", counted)
    return asked


def vet(one: Any) -> None:
    """Have the connection in a slot looked at before it is lent."""
    one.vet_at = 0.0


def expire(one: Any, at: float = 0.0) -> None:
    """Have the life of the connection in a slot be over since then."""
    one.retire_at = at


def idle_since(one: Any) -> float:
    """When the connection in a slot was given back."""
    return float(one.idle_since)


def make_idle_longer(one: Any, seconds: float) -> None:
    """Have it been given back so many seconds earlier."""
    one.idle_since -= seconds


def clean_up_of(one: Any) -> Any:
    """What cleans the session in a slot, while its outcome is not known; else None."""
    return one.session.cleaning


def born_with(one: Any) -> Any:
    """What was done to the session in a slot at its birth: kinds and texts of statements."""
    return one.session.changes.setup


def is_being_cleaned(one: Any) -> bool:
    """Whether what cleans the session in a slot was sent, and its outcome not looked at."""
    return one.session.cleaning is not None


def has_answer(one: Any) -> bool:
    """Whether the server has sent something that nobody has read yet."""
    readable, _, _ = select.select([one.session.pgconn.socket], [], [], 0)
    return bool(readable)


def is_forgotten(one: Any) -> bool:
    """Whether nothing is known of the session in a slot that its borrower did."""
    return not one.session.changes.dirt and one.session.changes.last is None


def change_session(conn: Any) -> None:
    """Have the session look as if its borrower had changed a setting."""
    conn._slot.session.changes.dirt |= statements.SETTINGS


def tell_of_no_role(monkeypatch: Any) -> None:
    """Servers do not say what they are: older ones, and behind some poolers."""
    monkeypatch.setattr(roles, "_reported", lambda pgconn: (None, None))


def names_may_lead_elsewhere_after(monkeypatch: Any, seconds: float) -> None:
    """Have a session that was read-only from its birth be believed for so long."""
    monkeypatch.setattr(roles, "LOOK_AGAIN", seconds)


def undo_by_this_too(monkeypatch: Any, statement: bytes) -> None:
    """Have every clean-up run this as well."""
    undo = (*cleaning._UNDO, (cleaning.ANYTHING, statement))
    monkeypatch.setattr(cleaning, "_UNDO", undo)


@contextmanager
def unknown_psycopg() -> Iterator[None]:
    """A block in which psycopg's cursors begin in a way that nobody foresaw."""
    with mock.patch.object(fronts, "_PSYCOPG_IS_KNOWN", False):
        yield


def psycopg_sends_differently(monkeypatch: Any) -> None:
    """Have psycopg send statements by a method that is not the one that was there at first."""
    monkeypatch.setattr(riding, "_PREPARE", None)


def psycopg_cannot_forget(monkeypatch: Any) -> None:
    """Have psycopg go on to believe in prepared statements that are gone."""
    monkeypatch.setattr(cleaning, "forget_prepared", lambda conn: False)


def quick_cursor_class() -> Any:
    """What a connection of a pool makes its cursors of, where psycopg is known."""
    return cursors.watched(foreign.Cursor)


def dirt_of(conn: Any) -> int:
    """What the borrower of a connection may have left behind so far."""
    return int(conn._slot.session.changes.dirt)


def errors_met(monkeypatch: Any) -> list[Any]:
    """A list of the SQLSTATEs that statements end with from now on."""
    met: list[Any] = []
    monkeypatch.setattr(roles, "note_error", lambda conn, state: met.append(state))
    return met


def old_psycopg_closes(monkeypatch: Any) -> None:
    """Have psycopg's `close()` know nothing of pools, as before 3.3."""
    monkeypatch.setattr(_module("session.returning"), "PSYCOPG_RETURNS", False)


def end_of_scopes_is(monkeypatch: Any, lost: Callable[..., None]) -> None:
    """Have this be done at the end of a scope, and nothing else."""
    monkeypatch.setattr(_module("borrowing"), "release_loans", lost)
    monkeypatch.setattr(_module("borrowing"), "_leave", lost)


def file_of_work() -> str:
    """The file of what wrappers do where work begins and ends."""
    return str(_module("backends.work").__file__)


def as_django_has_it(name: str) -> Any:
    """A method of Django's wrapper, None when somebody has put another in its place."""
    return _module("backends.djangos").as_django_has_it(name)


def is_pooled_editor(editor: Any) -> bool:
    """Whether an editor of schemas is one of ours."""
    return isinstance(editor, _module("backends.schema").PooledSchemaEditorMixin)


def warn_of_uwsgi_again(monkeypatch: Any) -> None:
    """Have it be said that nothing happens in the background, although it was before."""
    monkeypatch.setattr(uwsgi, "_warned", False)


def be_a_child_of_python(monkeypatch: Any) -> None:
    """Be a process that Python has forked from the one in which this was imported."""
    monkeypatch.setattr(uwsgi, "_pid", -1)


def knows_functions(pool: Any) -> bool:
    """Whether the pool knows which functions on its server change a session."""
    return not pool._opening.policy.trust.lost


def hidden(pool: Any) -> Any:
    """What the pool has found of such functions; None when there is none, or nothing known."""
    return pool._opening.policy.judge.hidden


def doubt_functions(pool: Any) -> None:
    """Have the pool not know which functions on its server change a session."""
    for one in pool._core.slots.all:
        pool._opening.policy.trust.opened(one.session)


def make_of_no_more_use(conn: Any) -> None:
    """Have a session that was born in a way that cannot be told, so that it cannot be cleaned."""
    conn._slot.session.changes = changes.Changes(statements.Judge())
    conn._slot.session.changes.setup = None


def unread_answers(pool: Any) -> list[Any]:
    """What servers have told of their functions, and nobody has read yet."""
    return list(pool._opening.policy.trust.answers)


def ask_of_functions(monkeypatch: Any, text: bytes) -> None:
    """Have the server be asked by this query for its functions."""
    monkeypatch.setattr(_module("session.hidden"), "query", lambda version: text)


def taking_in_hand_by(monkeypatch: Any, error: type[BaseException]) -> None:
    """Have this strike when a wrapper has borrowed, and has nothing in hand yet."""

    def struck(wrapper: Any, binding: Any, connection: Any) -> None:
        raise error

    monkeypatch.setattr(_module("backends.holding").Holding, "_take", struck)


def told_of_loans() -> frozenset[str]:
    """The methods of wrappers that foreign classes are told of each loan by."""
    return frozenset(_module("backends.stacked").LOAN_HOOKS)


def say_again(monkeypatch: Any) -> None:
    """Have what is said once for a process be said, although it was before."""
    monkeypatch.setattr(_module("session.foreign"), "_said", set())


def read_every_word(judge: statements.Judge) -> None:
    """Have a judge of statements pass by no word."""
    judge._stems = [b""]


def be_counted_next(one: Any) -> None:
    """Have the next loan of the connection in a slot be the one after which they are counted."""
    one.loan = COUNT_AT - 1


def wind_up(pool: Any) -> None:
    """Have the pool close what comes back, as when it was closed meanwhile."""
    pool._core.winding_up = True


def be_reported(conn: Any) -> None:
    """Have the loan be one that was reported as a leak."""
    conn._slot.reported = True


# -- Who waits ----------------------------------------------------------------------------


def waiters(pool: Any) -> list[Any]:
    """Those who stand in line and were not served, the first first; a copy."""
    return list(pool._core.line)


def has_waiters(pool: Any) -> bool:
    """Whether somebody stands in line."""
    return bool(pool._core.line)


def serves(pool: Any) -> bool:
    """Whether whoever comes gets an idle connection, and those in line too."""
    return bool(pool._core.serving)


def is_served(waiter: Any) -> bool:
    """Whether a waiter was given a slot or an error, and only has to wake up."""
    return waiter.slot is not None or waiter.error is not None


def stands_first(pool: Any, one: Any) -> None:
    """Have somebody stand first in line who was given this slot: an interrupt kept him there."""
    served = line.Waiter(0.0, 0)
    served.slot = one
    pool._core.line.appendleft(served)


def accept_wake_up(waiter: Any) -> bool:
    """Take the wake-up that a waiter was given, if any."""
    return bool(waiter.gate.acquire(blocking=False))


def wake(waiter: Any) -> None:
    """Wake a waiter up, as whoever serves it does."""
    waiter.wake()


def waiter_woken_by(release: Callable[[], None]) -> Any:
    """A waiter whose wake-up calls this."""
    waiter = line.Waiter(0.0, 0)
    waiter.gate = mock.Mock(release=release)
    return waiter


def waiting_by(wait: Callable[[Any, float], bool]) -> Any:
    """A block in which waiters wait by calling this with the waiter and the seconds."""
    return mock.patch.object(line.Waiter, "wait", lambda waiter, timeout: wait(waiter, timeout))


def wait(waiter: Any, timeout: float) -> bool:
    """Wait as a waiter does, outside of `waiting_by`."""
    return _WAIT(waiter, timeout)


_WAIT = line.Waiter.wait


@contextmanager
def waking_then(act: Callable[[], None]) -> Iterator[None]:
    """A block in which whoever wakes a waiter does this as well."""
    wake = line.Waiter.wake

    def wake_and_act(waiter: Any) -> None:
        wake(waiter)
        act()

    with mock.patch.object(line.Waiter, "wake", wake_and_act):
        yield


def waking_nobody() -> Any:
    """A block in which nobody who is served wakes up."""
    return mock.patch.object(line.Waiter, "wake", lambda waiter: None)


class _Accepting(slot.Slot):
    """A slot whose waiter accepts, which takes no lock, right after it was looked at so often."""

    __slots__ = ()
    looks = 0

    @property
    def waiter(self) -> Any:
        waiter = slot.Slot.waiter.__get__(self)  # type: ignore[attr-defined]
        _Accepting.looks -= 1
        if not _Accepting.looks:
            slot.Slot.waiter.__set__(self, None)  # type: ignore[attr-defined]
            self.state = slot.LOAN
        return waiter

    @waiter.setter
    def waiter(self, waiter: Any) -> None:
        slot.Slot.waiter.__set__(self, waiter)  # type: ignore[attr-defined]


def handed_over(pool: Any, looks: int) -> Any:
    """One idle slot of the pool, on its way to a waiter that accepts after so many looks."""
    _Accepting.looks = looks
    one = pool._core.slots.idle.pop()
    one.waiter, one.state = line.Waiter(pool._core.clock(), 0), slot.HANDED
    one.waiter.slot = one
    one.__class__ = _Accepting
    return one


def is_accepted(one: Any) -> bool:
    """Whether the slot is a loan: whoever was given it has taken it."""
    return bool(one.state is slot.LOAN)


# -- What is done with them ---------------------------------------------------------------


def discard(pool: Any, one: Any) -> None:
    """End a loan as that of a connection that is lost."""
    pool._checking.discard(one, "lost")


def note_of_an_interrupt(pool: Any, one: Any) -> None:
    """Leave the note about a slot that whoever is interrupted with it leaves."""
    pool._core.inbox.append((core.Core.audit,))


def retired_again() -> int:
    """How often a slot is to be closed, of which an interrupt has kept a part of its first try."""
    slots, one = slots_module.Slots(), slot.Slot(mock.Mock(), 0)
    slots.retire(one, slot.SURPLUS)
    slots.closing.clear()
    slots.retire(one, slot.SURPLUS)
    return len(slots.to_close)


def half_close(pool: Any, one: Any) -> None:
    """Leave an idle slot as an interrupt does that strikes when it is on the way out."""
    one.state, one.reason = slot.CLOSING, slot.LOST


def looking_at_nothing(pool: Any) -> Any:
    """A block in which whoever gives back does not look at what else there is to do."""
    return mock.patch.object(pool._upkeep, "look_around")


def asking_whether_open(ask: Callable[[], Any]) -> Any:
    """A block in which whoever borrows from a pool that is closed calls this."""
    return mock.patch.object(core.Core, "check_open", staticmethod(ask))


def hire_by(pool: Any, hire: Callable[[Any], None]) -> Callable[[Any], None]:
    """Have workers hired by calling this with the thread that begins nothing then; see `work`.

    Return what did it before.
    """
    crew = pool._crew
    before = crew._start

    def start(thread: Any) -> bool:
        hire(thread)
        return True

    crew._start = start
    return before  # type: ignore[no-any-return]


def work(pool: Any, hired: Any) -> None:
    """Do what a worker does that was hired so."""
    pool._crew._hired.pop(hired, None)
    pool._crew.work()


def hired(pool: Any) -> int:
    """How many workers were hired that have not begun yet."""
    return len(pool._crew._hired)


@contextmanager
def hiring_by(pool: Any, act: Callable[..., None]) -> Iterator[None]:
    """A block in which hiring a worker calls this."""
    with mock.patch.object(pool._crew, "_start", act):
        yield


@contextmanager
def closing_by(pool: Any, close: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """A block in which workers close a connection by calling this with what closes it."""
    original = pool._crew._close
    pool._crew._close = lambda *args: close(lambda: original(*args))
    try:
        yield
    finally:
        del pool._crew._close


def catch_up_by(pool: Any, wrap: Callable[[Callable[[], None]], None]) -> Callable[[], None]:
    """Have what a signal handler asked for be done by `wrap`, given what does it.

    Return what ends this.
    """
    original = core.Core.catch_up
    patch = mock.patch.object(core.Core, "catch_up", lambda self: wrap(partial(original, self)))
    patch.start()
    return patch.stop


# -- What an interrupt may find half done --------------------------------------------------

CODE_OF_POOL = tuple(
    str(Path(core.__file__).parents[1] / room)
    for room in ("pool", "session", "process", "connection_pool.py", "block.py")
)
CODE_OF_TASKS = ("aio/pool.py", "pool/awaiting.py", "pool/tasks.py", "session/twin.py")

CODE_OF_SHARING = str(Path(core.__file__).with_name("sharing.py"))

# What the interpreter itself calls, so that what they raise goes nowhere.
FINALIZERS = ("__del__", "connection_died", "task_is_gone")

Pool, Core, Checking = pool_module.Pool, core.Core, checking.Checking

# The functions that an interrupted borrower may be in.
BORROWING = (
    *(Pool.getconn, Checking.is_fit, Checking._passes_check, Checking._came_clean),
    *(Pool._wait_for_slot, Pool._stand_in_line, Pool._leave_line),
    *(Pool.putconn, Pool._complaint, Core.settle, Core.hand_over),
    *(session.Session.make_fit, session.Session.comes_back_fit),
    *(line.Line.let_go, slots_module.Slots.prefer_ready),
    *(connection_pool.Loan.__enter__, connection_pool.Loan.__exit__),
)
# Those that bring to rest what he has left.
MENDING = (
    *(Core.catch_up, Core.audit, Core._settle_if_clean, Core.take_back),
    *(slots_module.Slots.audit, line.Line.audit),
)


def leaving_notes() -> Any:
    """A block in which nobody is woken to read notes: what comes next finds them."""
    return mock.patch.object(background_module.Ticket, "now", lambda ticket: None)


def situation(pool: Any) -> str:
    """All that decides what there is to mend."""
    slots = pool._core.slots
    found = {
        (
            *(one.state, one in slots.idle, one in slots.to_close, one in slots.closing),
            *(one in slots.opening, one.is_nobodys, one.waiter is not None),
            *(one.waiter is not None and one.waiter.left, one.loans is None),
            one.has_session and one.session.conn is None,
        )
        for one in slots.all
    }
    notes = {note[0].__name__ for note in pool._core.inbox.copy()}
    line = {(one.left, one.slot is None) for one in list(pool._core.line)}
    return repr((pool.closed, sorted(notes), sorted(line), sorted(found)))


# -- The maintenance thread ---------------------------------------------------------------


def wake_maintenance() -> None:
    """Have the maintenance thread look at once, at all that it looks after."""
    for ticket in list(background.due):
        ticket.now()
    background.poke()


def maintenance_asleep() -> Any:
    """A block in which the maintenance thread is not woken: what it would do is left to others."""
    return mock.patch.object(background, "poke", lambda: None)


def start_maintenance() -> None:
    """See to it that the maintenance thread is there."""
    background.read(0.0, lambda: None)
    background.unread(0.0)


@contextmanager
def maintained_by(fake: Any) -> Iterator[None]:
    """A block in which this does for all new pools what the background thread does."""
    with mock.patch.object(connection_pool.background, "join", lambda task, lasts=True: fake):
        yield


def reads() -> list[Any]:
    """What the maintenance thread reads from."""
    return list(background._reads)


def maintenance_lock() -> Any:
    """The lock of the maintenance thread."""
    return background.lock


def fail_once_in_maintenance(failed: list[Any]) -> None:
    """Have the maintenance thread fail the next time it looks at its tasks, and note that."""
    serve = background._serve

    def fail(now: float) -> None:
        background._serve = serve  # type: ignore[method-assign]
        failed.append(now)
        raise ZeroDivisionError

    background_module.FAILURE_PAUSE = 0.0
    background._serve = fail  # type: ignore[method-assign]
    background.poke()


# -- Numbers that are nobody's option -----------------------------------------------------

# All are seconds.
TUNABLE: dict[str, tuple[str, ...]] = {
    # How long a borrower waits for a clean-up, and how long it may take if nobody comes for it.
    "clean_patience": ("pool.checking.CLEAN_TIMEOUT",),
    "clean_timeout": ("pool.core.CLEAN_TIMEOUT", "pool.upkeep.CLEAN_TIMEOUT"),
    # Between two attempts to connect in an outage: at first, at the most, if nobody waits.
    "first_retry": ("pool.outage.FIRST_RETRY",),
    "last_retry": ("pool.outage.LAST_RETRY",),
    "lazy_retry": ("pool.outage.LAZY_RETRY",),
    # After which an attempt to connect is not counted on.
    "hanging": ("pool.prospects.HANGING",),
    # For the answer to a ping.
    "ping_timeout": ("pool.checking.PING_TIMEOUT",),
    # After which a connection that is opened is a reason to ask for functions anew.
    "ask_again": ("session.trust.ASK_AGAIN",),
    # How long a fork waits for the maintenance thread, and this after a failure of its own.
    "parking": ("process.background.PARKING",),
    "failure_pause": ("process.background.FAILURE_PAUSE",),
    # On offer, after which others may take it, and after which its owner looks whether it lives.
    "offer_settled": ("backends.loans.SETTLED",),
    "offer_trust": ("backends.offering.TRUSTED",),
    # How long a loan may last while others wait; how long what an app borrows as it starts.
    "offer_loan": ("backends.offering.LONGEST",),
    # Since somebody in line got what came back, in which who pauses gives back at once.
    "offer_crowded": ("backends.offering.CROWDED",),
    "offer_start": ("backends.holding.AFTER_START",),
    # Between two looks of the background thread at what is on offer.
    "offer_often": ("pool.offers.OFTEN",),
    "offer_seldom": ("pool.offers.SELDOM", "pool.offers.MOVING"),
    "offer_first_look": ("pool.offers.FIRST_LOOK",),
    # Between two works of a thread that parks its connection, and how long that stays parked.
    "park_soon": ("backends.loans.SOON",),
    "park_for": ("pool.parking.PARKED_FOR",),
}


def _tunable(name: str) -> Iterator[tuple[Any, str]]:
    for place in TUNABLE[name]:
        module, _, constant = place.rpartition(".")
        yield import_module(f"django_connpool.{module}"), constant


def tune(monkeypatch: Any, **numbers: float) -> None:
    """Change constants of the package for a test; see `TUNABLE`."""
    for name, number in numbers.items():
        for module, constant in _tunable(name):
            monkeypatch.setattr(module, constant, number)


@contextmanager
def tuned(**numbers: float) -> Iterator[None]:
    """A block with other values of constants of the package; see `TUNABLE`."""
    with ExitStack() as patches:
        for name, number in numbers.items():
            for module, constant in _tunable(name):
                patches.enter_context(mock.patch.object(module, constant, number))
        yield


def tuning(name: str) -> float:
    """What a constant is now."""
    return min(getattr(module, constant) for module, constant in _tunable(name))


# -- The maintenance thread as such -------------------------------------------------------


class HookedBackground(Background):
    """Another one, that calls `ends` when its thread knows that it has to end."""

    def ends(self) -> None:
        pass

    def _is_needed(self) -> bool:
        needed = super()._is_needed()
        if not needed:
            self.ends()
        return needed


def thread_of(one: Background) -> Any:
    """Its thread, or None."""
    return one.thread


def tell_to_end(one: Background) -> None:
    """Have its thread end, as before a fork."""
    with one.lock:
        one._stopping = True
    one.poke()


def sleeps_until(one: Background) -> float:
    """When its thread wakes up by itself."""
    return one.sleeps_until


def set_deadlines(one: Background, deadlines: Any) -> None:
    """Give it another dictionary of what is to be called when."""
    one.due = deadlines


def pipe_of(one: Background = background) -> tuple[int, int]:
    """The descriptors of the pipe that wakes its thread up."""
    assert one._wake_up is not None
    return one._wake_up


def set_pipe(one: Background, pipe: Iterable[int]) -> None:
    """Have it believe that these are the descriptors of its pipe."""
    read, write = pipe
    one._wake_up = (read, write)


# -- Django's wrappers --------------------------------------------------------------------
#
# Looked up late: the tests of the pool itself have no Django.


def _module(name: str) -> Any:
    return import_module(f"django_connpool.{name}")


def binding(wrapper: Any) -> Any:
    """The binding of a wrapper to its pool."""
    return wrapper._bind()


def bindings() -> list[Any]:
    """All bindings of this process."""
    return list(_module("registry")._bindings.values())


def users(wrapper: Any) -> Iterator[Any]:
    """The wrappers of the database of this one, itself included, that may have a loan."""
    return _module("registry").users(wrapper._bind())  # type: ignore[no-any-return]


def pooled_aliases() -> list[str]:
    """The aliases that `poolstatus` knows."""
    return list(_module("management.commands.poolstatus")._pooled(None))


def parts_of(body: Iterator[Any], name: str) -> Iterator[Any]:
    """The parts of a streaming response, as the middleware has them sent."""
    return _module("middleware")._each(body, name)  # type: ignore[no-any-return]


def defer_a_savepoint(conn: Any, statement: bytes) -> None:
    """Have that go to the server with the next statement, as a savepoint."""
    conn._changes.deferred = (statement,)


@contextmanager
def interrupted_after_a_savepoint(wrapper: Any) -> Iterator[None]:
    """Leave what an interrupt leaves that strikes as a step of a savepoint's is just over."""
    left: list[Any] = []

    def note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        left.append(wrapper.at_savepoint)
        return execute(sql, params, many, context)

    with wrapper.execute_wrapper(note):
        yield
    assert left[-1] is not None
    wrapper.at_savepoint = left[-1]


def code_of_riding() -> set[str]:
    """The file of what goes along with a statement."""
    return {str(_module("session.riding").__file__)}


def code_of_releasing() -> set[str]:
    """The files that release between two statements."""
    names = ("holding", "offering", "cursors", "work", "wrapper")
    return {_module(f"backends.{name}").__file__ for name in names}


# Connections that nobody uses at the moment.


def offered(wrapper: Any) -> Any:
    """The connection that the wrapper has on offer; None when it has none, or it was taken."""
    return wrapper.offer[0] if wrapper.offer else None


def lose_trust(pool: Any) -> None:
    """Have the pool think that functions of its server were made of which it does not know."""
    trust = pool._opening.policy.trust
    trust._number += 1
    trust.lost = True


def goes_by_the_hand(cursor: Any) -> bool:
    """Whether it runs each statement on the connection that its wrapper then has in hand."""
    return isinstance(cursor, _module("backends.cursors").Rebinding)


def leave_as_parked(wrapper: Any) -> None:
    """Leave what the wrapper has on offer as an interrupt would, in the middle of parking it."""
    wrapper.offer.ended[:] = (0.0,)


def parked(wrapper: Any) -> Any:
    """The connection that this thread has parked; None when it has none, or it was taken."""
    offer = wrapper.leaving.offer
    return offer[0] if wrapper.parked and offer and offer.ended else None


def park(pool: Any, offer: Any) -> bool:
    """End a loan on offer as a wrapper does, and leave its connection there; False if not."""
    # As if changes of the connection object were noticed, which is so of psycopg's own only.
    offer.slot.session.original.touch.touched = False
    return bool(pool.parking.begin(offer))


def go_on_with_parked(pool: Any, offer: Any) -> Any:
    """The connection for the next loan of the same borrower; None when it has to borrow."""
    try:
        ended, conn = offer.claim(), offer.pop()
    except IndexError:
        return None
    if not pool.parking.end(offer.slot, ended):
        pool.putconn(conn)
        return None
    return conn


@contextmanager
def when_parked_was_seen(act: Callable[[], None]) -> Iterator[None]:
    """A block in which this is done once, when somebody has seen what is parked, and takes it."""
    core_sorted = sorted
    acts = [act]

    def after_a_look(found: Iterable[Any], **how: Any) -> list[Any]:
        ordered = core_sorted(found, **how)
        while acts:
            acts.pop()()
        return ordered

    with mock.patch.object(core, "sorted", after_a_look, create=True):
        yield


@contextmanager
def interrupted_as_it_is_parked(wrapper: Any) -> Iterator[None]:
    """A block in which an interrupt strikes when the wrapper has parked its connection."""
    parking = wrapper.pool.parking
    begin = type(parking).begin

    def begun(*args: Any) -> bool:
        assert begin(*args)
        raise KeyboardInterrupt

    with mock.patch.object(type(parking), "begin", begun):
        yield


def aliases_bound_last() -> list[str]:
    """The aliases of which it is remembered to which pool they were bound last."""
    return [alias for _, alias, _ in registry._last_keys]


def stand_in_line_again(pool: Any) -> Any:
    """Stand in line as one who was served something dead; return what it was given, if anything."""
    waiter = line.Waiter(0.0, 1)
    with pool._core.lock:
        pool._stand_in_line(waiter, 1.0)
        pool._core.line.leave(waiter)
    return waiter.slot


def leave_to_others(pool: Any, one: Any) -> None:
    """What somebody in line was given, and does not want."""
    one.waiter.left = True
    with pool._core.lock:
        pool._core.audit()


@contextmanager
def in_doubt_of_functions(pool: Any) -> Iterator[None]:
    """A block in which the pool does not know which functions on its server change a session."""
    trust = pool._opening.policy.trust
    trust.lost = True
    try:
        yield
    finally:
        trust.lost = False


@contextmanager
def looking_on(monkeypatch: Any) -> Iterator[list[Any]]:
    """A block in which it is noted what work does with its connections, as for a panel."""
    watching = _module("backends.watching")
    holding, offering = _module("backends.holding").Holding, _module("backends.offering").Offering
    for cls in (holding, offering):
        for name in ("_take", "_hand_back", "release_if_free", "_go_on_with_parked"):
            if name in vars(cls):
                monkeypatch.setattr(cls, name, vars(cls)[name])
    monkeypatch.setattr(watching, "_is_installed", False)
    watching.install()
    found: list[Any] = []
    token = watching.seen.set(found)
    try:
        yield found
    finally:
        watching.seen.reset(token)


@contextmanager
def counting_borrows(monkeypatch: Any) -> Iterator[list[Any]]:
    """A block in which each borrow from a pool, and what is given back, is noted."""
    found: list[Any] = []
    with monkeypatch.context() as patch:
        for name in ("getconn", "putconn"):
            whole = getattr(pool_module.Pool, name)
            patch.setattr(
                pool_module.Pool,
                name,
                lambda *args, whole=whole, **kwargs: (found.append(whole), whole(*args, **kwargs))[
                    1
                ],
            )
        yield found


def take_all(pool: Any) -> None:
    """Give back all that is on offer in a pool."""
    pool.take_offers()


def take_ripe(pool: Any) -> int:
    """Give back what somebody could take who would have waited for long; return how many."""
    core = pool._core
    with core.lock:
        found = offers.for_those_who_wait(core, core.clock() + 60, 1)
    return offers.give_back(found)


@contextmanager
def somebody_in_line(pool: Any) -> Iterator[None]:
    """A block in which somebody stands in line, whom nobody serves."""
    waiter = line.Waiter(pool._core.clock() - 60, 1)
    waiter.left = True  # not served
    with pool._core.lock:
        pool._core.line.append(waiter)
    try:
        yield
    finally:
        with pool._core.lock:
            pool._core.line.leave(waiter)


def ways(monkeypatch: Any) -> list[str]:
    """What from here on goes from an event loop to the thread of its queries, as work ends."""
    found: list[str] = []
    borrowing = _module("borrowing")
    go = borrowing.sync_to_async

    def noted(function: Any, **how: Any) -> Any:
        if function is not borrowing.before_work:
            found.append(function.__name__)
        return go(function, **how)

    monkeypatch.setattr(borrowing, "sync_to_async", noted)
    return found


def holds_outside_of_work(wrapper: Any) -> bool:
    """Whether who begins work has to go to the wrapper's thread before."""
    return bool(_module("backends.work").holds_outside_of(wrapper, None))


@contextmanager
def taking_back_the_first_note(wrapper: Any) -> Iterator[None]:
    """A block in which a wrapper's first note is taken back at once, by who ends its work."""

    class Notes(set[Any]):
        is_first = True

        def add(self, one: Any) -> None:
            if not self.is_first:
                noted.add(one)
            self.is_first = False

    noted = wrapper.noted
    wrapper.noted = Notes()
    try:
        yield
    finally:
        wrapper.noted = noted


@contextmanager
def between_steps_of(module: ModuleType, act: Callable[[], object], at_most: int) -> Iterator[None]:
    """A block in which this thread does that between any two lines of a module, so often."""
    left = [act] * at_most

    def follow(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename == module.__file__ and left:
            left.pop()()
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def offering_after(monkeypatch: Any, act: Callable[[], None]) -> Iterator[None]:
    """A block in which this is done in the moment before a connection is on offer."""
    append = offers.Offer.append

    def appended(offer: Any, conn: Any) -> None:
        act()
        append(offer, conn)

    with mock.patch.object(offers.Offer, "append", appended):
        yield


@contextmanager
def taking_up_with(handler: Callable[[], Any]) -> Iterator[None]:
    """A block in which a signal handler comes by once, as a connection is taken up again."""
    offer_of = offers.Offer
    pop = offer_of.pop
    pending = [handler]

    def popped(offer: Any) -> Any:
        conn = pop(offer)
        while pending:
            pending.pop()()
        return conn

    with mock.patch.object(offer_of, "pop", popped):
        yield


def do_not_count(monkeypatch: Any) -> None:
    """Have the package believe that the interpreter does not count references."""
    monkeypatch.setattr(_module("backends.offering"), "COUNTS", False)


def deadline(pool: Any) -> float:
    """When the pool looks around next, by the monotonic clock."""
    return float(pool._core.deadline)


def upkeep_due(pool: Any) -> float:
    """When the background thread calls for that, which may be earlier."""
    return float(pool._core.ticket.due)


def watch_of(pool: Any) -> Any:
    """The task that looks at what is on offer."""
    return pool._watch


def watch_due(pool: Any) -> float:
    """When that looks next."""
    return float(pool._watch.ticket.due)


def leaving_with(conn: Any) -> Any:
    """What dies with the borrower of a connection, with a new offer of it."""
    leaving = offers.Leaving()
    leaving.offer = offers.Offer(slot_of(conn), NEVER, NEVER)
    return leaving


def end_thread_of(conn: Any) -> None:
    """Tell the pool that the thread has ended that borrowed this connection."""
    one = slot_of(conn)
    one.thread_ended(one.loans)


def let_offer(pool: Any) -> None:
    """Have the pool look for what its borrowers do not use."""
    pool.expect_offers()


def let_nobody_offer(pool: Any) -> None:
    """Have the pool believe that its borrowers keep what they hold."""
    pool._core.limits.has_offers = False


def terms(wrapper: Any) -> tuple[float, float]:
    """After how many seconds who waits may take the wrapper's connection, and anybody."""
    slot = wrapper.offer.slot
    return slot.patience, slot.idle_limit


def is_at_rest(wrapper: Any) -> bool:
    """Whether the session that the wrapper has may go to somebody else."""
    conn = offered(wrapper) or wrapper.in_hand
    return conn is None or bool(_module("session.ties").is_at_rest(conn._slot.session, conn))


def ties(wrapper: Any) -> list[str]:
    """What keeps the session in the wrapper's hand from going to somebody else, in words."""
    conn = offered(wrapper) or wrapper.in_hand
    return [] if conn is None else list(_module("backends.loans").ties(conn))


@contextmanager
def handing_back_by(wrapper: Any, side_effect: type[BaseException]) -> Iterator[None]:
    """A block in which giving back fails once, before it has begun."""
    errors = [side_effect]
    putconn = type(wrapper.pool).putconn

    def failing(pool: Any, conn: Any) -> None:
        while errors:
            raise errors.pop()
        putconn(pool, conn)

    with mock.patch.object(type(wrapper.pool), "putconn", failing):
        yield


# -- The status socket --------------------------------------------------------------------


def listener() -> Any:
    """What answers on the status socket of this process, or None."""
    return next(reversed(_module("status.server")._listeners), None)


def socket_of(listener: Any) -> Any:
    """Its socket."""
    return listener._socket


def set_socket(monkeypatch: Any, listener: Any, socket: Any) -> None:
    """Give it another socket."""
    monkeypatch.setattr(listener, "_socket", socket)


def warn_again(monkeypatch: Any) -> None:
    """Have a status directory that is of no use be warned of, although it was before."""
    monkeypatch.setattr(_module("status.server"), "_warned", False)


def query_of_activity() -> str:
    """What the server is asked about those who are connected."""
    return str(_module("status.activity")._QUERY)


def reading_by(monkeypatch: Any, read: Callable[..., bytes]) -> None:
    """Have the answers of other processes be read by this."""
    monkeypatch.setattr(_module("status.collect"), "_read", read)


def sockets_are(monkeypatch: Any, sockets: list[Any]) -> None:
    """Have these be found as the sockets of other processes: names and paths."""
    monkeypatch.setattr(_module("status.directory"), "sockets", lambda place: sockets)


# -- Bursts -------------------------------------------------------------------------------


def loggers() -> set[str]:
    """Those that say a thing once in a burst."""
    return set(_module("process.bursts").LOGGERS)


def forget_bursts() -> None:
    """Nothing was logged so far."""
    _module("process.bursts").bursts.forget()


def end_bursts() -> None:
    """What was logged more than once is told of now."""
    bursts = _module("process.bursts").bursts
    bursts.run(max((burst.until for burst in bursts._bursts.values()), default=0.0))


# -- Credentials --------------------------------------------------------------------------


def credentials(ask: Callable[[dict[str, Any]], Any], ttl: float) -> Any:
    """What a pool keeps of the answers of that callable."""
    return _module("session.credentials").Credentials(ask, ttl)


def credentials_live_by(monkeypatch: Any, clock: Callable[[], float]) -> None:
    """Have answers grow old by that clock."""
    monkeypatch.setattr(_module("session.credentials"), "monotonic", clock)


def know_no_language(monkeypatch: Any) -> None:
    """No text of a server's is understood."""
    refusals = _module("session.refusals")
    monkeypatch.setattr(refusals, "_CREDENTIALS", mock.Mock(search=lambda text: None))
    monkeypatch.setattr(refusals, "_LASTING_TEXTS", ())


# -- Listening ----------------------------------------------------------------------------


def listening_sockets() -> list[Any]:
    """The connections that listen in this process."""
    hubs = list(_module("switchboard")._hubs.values())
    return [hub for hub in hubs if hub._channels is not None]


def keep_notifications(monkeypatch: Any, most: int) -> None:
    """Have a listener keep no more than so many that nobody takes."""
    monkeypatch.setattr(_module("listening"), "MOST_KEPT", most)


@contextmanager
def after_a_look(listener: Any, act: Callable[[], None]) -> Iterator[None]:
    """Have this done once, when the listener has found nothing and is about to wait."""
    look = listener._next

    def looked() -> Any:
        found = look()
        if found is None:
            listener._next = look
            act()
        return found

    listener._next = looked
    yield


def ask_after(monkeypatch: Any, seconds: float) -> None:
    """Have a connection that listens be asked, and given up, after so long a silence."""
    monkeypatch.setattr(_module("session.channels"), "PATIENCE", seconds)


def code_of_listening() -> set[str]:
    """The files in which a listener's own thread is."""
    return {str(_module(name).__file__) for name in ("listening", "switchboard")}


def is_leaving_channels() -> bool:
    """Whether a connection waits for the answer to an UNLISTEN."""
    held = [hub._channels for hub in listening_sockets()]
    return any(one._asked not in (None, one.told) for one in held)


# -- Bounds that are shared -----------------------------------------------------------------


def die(member: ledger.Ledger) -> None:
    """Have its locks go as the kernel does when a process ends; `forget` may still be called."""
    os.close(member._fd)
    member._fd = os.open(os.devnull, os.O_RDONLY)


def sharing_of(pool: Any) -> Any:
    """What a pool asks for places; None for one that shares no bound."""
    return pool._core.sharing


# -- Tasks --------------------------------------------------------------------------------


def interrupt_taking(monkeypatch: Any) -> None:
    """Have whoever takes a place of a host's bound be interrupted when it has locked it."""
    monkeypatch.setattr(ledger.Ledger, "_note", mock.Mock(side_effect=KeyboardInterrupt))


def hurry_after_interrupts(monkeypatch: Any) -> None:
    """Have a worker that was interrupted hold up nobody, and a place not rest."""
    monkeypatch.setattr(crew, "FIRST_RETRY", 0.0)
    monkeypatch.setattr(ledger, "AFTER_DEATH", 0.0)
    monkeypatch.setattr(places, "AFTER_GOODBYE", 0.0)


def hurry_ends_of_statements(monkeypatch: Any, seconds: float) -> None:
    """Have a statement that was cancelled be given up after so many seconds."""
    monkeypatch.setattr(twin, "END_TIMEOUT", seconds)


running_loop = cpython.running_loop


def parked_and_resumed(monkeypatch: Any, as_it_parks: Callable[[Callable[[], None]], None]) -> Any:
    """What a fork does with the background thread, where this is done in the midst of it.

    `as_it_parks` is given what resumes, as a fork in another thread may call it at any moment.
    """
    ending = _module("process.ending")
    done: list[str] = []

    def park() -> None:
        done.append("parked")
        as_it_parks(ending._resume)

    monkeypatch.setattr(ending.background, "park", park)
    monkeypatch.setattr(ending.background, "resume", lambda: done.append("resumed"))
    with suppress(KeyboardInterrupt):
        ending._before_fork()
    ending._resume()
    return done
