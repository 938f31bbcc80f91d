"""Taking a connection back from a thread that lives on without using it.

The hazard: the thread may begin a statement at any instruction. So nothing is taken that
anybody could be about to use:

1. A connection is *parked*: the maintenance thread moves it out of the wrapper's `__dict__`,
   and leaves it there only if that was the last reference to it. Whoever is in the middle
   of a statement, has a cursor, or is in an instruction that has just read the attribute
   holds another one. From that moment there is one way to the connection, the wrapper's
   attribute, and reading that now ends in `Lent.__get__`.
2. What is parked cannot change, so now it is looked at: it must be in no transaction, in
   autocommit mode and with no attribute changed. Otherwise it is put back.
3. The owner's next look at the attribute takes it out of the parking place again. If the
   pool has taken it meanwhile, the owner borrows another one, in the middle of its step:
   a step begun with a connection at rest can as well be done with another at rest.

1 to 3 exclude each other by a lock that the owner never meets while its connection is at
hand: reading the attribute then costs what it always did. A connection that stays parked
for so many seconds was idle for so many seconds.

References are counted by CPython with its global lock; elsewhere nothing is recalled.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from time import monotonic
from typing import Any, NamedTuple, cast

from django_connpool import registry
from django_connpool.borrower import Borrower, Releaser
from django_connpool.process import forks
from django_connpool.process.background import NEVER, background
from django_connpool.process.cpython import COUNTS, ONE_VARIABLE, count
from django_connpool.registry import Binding
from django_connpool.session.foreign import Connection

from . import loans

logger = logging.getLogger("django_connpool.pool")

PAUSE = 0.2  # seconds of idleness after which a loan that nobody will give back is taken
SOON = 0.05  # seconds to the first look at it
SELDOM = 0.5  # seconds between two looks, when it is in use for long

_MISSING = object()
# Reentrant: a finalizer may run in the middle of a section below and use a wrapper.
_lock = threading.RLock()


class Lent:
    """The class attribute `connection`: what is found when the wrapper itself has none.

    That is between two statements as well, when the connection was given back early: who looks
    at it there, as panels that show statements do, finds one that is his until his work ends.

    Not a data descriptor, so that a connection in the wrapper's `__dict__` is found first.
    """

    def __get__(self, wrapper: Releaser | None, owner: type) -> Any:
        if wrapper is None:
            return self
        found = _unparked(wrapper)
        if found is not _MISSING:
            return found
        return wrapper.borrow_to_look() if wrapper.is_between else wrapper.borrow_again()


def at_hand(wrapper: Any) -> Any:
    """The connection in hand, or None. Borrows none, and leaves a parked one where it is."""
    return vars(wrapper).get("connection")


def held(wrapper: Borrower) -> Any:
    """The connection in hand, or None, also when it was recalled. For the owner's thread."""
    found = _unparked(wrapper)
    if found is _MISSING:
        found = None
        if not wrapper.is_between:
            wrapper.connection = None
    return found


def leave_between(wrapper: Borrower) -> None:
    """Have reading `connection` end in `Lent.__get__`, unless something is at hand by now.

    For the owner's thread. Under the lock, or it could be parked and put back meanwhile.
    """
    own = vars(wrapper)
    with _lock:
        # With no call in between: a signal handler may borrow.
        if "connection" in own and own["connection"] is None:
            wrapper.is_between = True
            del own["connection"]


def end_between(wrapper: Borrower) -> None:
    """There is no connection from here on, as when Django has closed it. In whichever thread."""
    with _lock:
        if wrapper.is_between:
            vars(wrapper).setdefault("connection", None)
            wrapper.is_between = False


def _unparked(wrapper: Borrower) -> Any:
    with _lock:
        own = vars(wrapper)
        found = own.get("connection", _MISSING)
        if found is _MISSING and wrapper.parked is not None:
            found = own["connection"] = wrapper.parked
        wrapper.parked = None
        return found


def _is_alone_behind(connection: Any) -> bool:
    """Whether nobody, such as a cursor, has what is behind an agent's proxy."""
    while not issubclass(type(connection), Connection):
        try:
            connection = connection.__wrapped__
        except AttributeError:
            return True
        if count(connection) != ONE_VARIABLE + 1:  # and the proxy's
            return False
    return True


def _park(wrapper: Borrower, now: float) -> None:
    """Under the lock: put the connection where its owner has to ask for it, if it is at rest."""
    own = vars(wrapper)
    connection = own.pop("connection", _MISSING)
    if connection is _MISSING:
        return
    at_rest = False
    try:
        at_rest = (
            count(connection) == ONE_VARIABLE
            and _is_alone_behind(connection)
            and _is_at_rest(wrapper, connection)
        )
    finally:
        if at_rest:
            wrapper.parked, wrapper.parked_at = connection, now
        else:
            # Unless the owner, who had read it before, has just set it to None.
            own.setdefault("connection", connection)


def is_at_rest(wrapper: Borrower) -> bool:
    """Whether nobody is in the middle of anything. For the owner's thread; others get a hint."""
    connection = at_hand(wrapper)
    return bool(
        COUNTS
        and connection is not None
        and count(connection) == ONE_VARIABLE + 1  # and the wrapper's
        and _is_alone_behind(connection)
        and wrapper.is_pooled
        and _is_at_rest(wrapper, connection)
    )


def _is_at_rest(wrapper: Borrower, connection: Any) -> bool:
    return not (
        wrapper.in_atomic_block
        or wrapper.run_on_commit
        or wrapper.kept
        or wrapper.by_hand
        or loans.ties(connection)
    )


class Leftover(NamedTuple):
    """A loan that nobody will give back; another one of the same wrapper is not meant."""

    wrapper: weakref.ref[Borrower]
    loan: Any
    noted: float  # when it was left over

    def is_over(self, wrapper: Borrower | None) -> bool:
        return wrapper is None or loans.identity(_in_hand(wrapper)) != self.loan


def _in_hand(wrapper: Borrower) -> Any:
    """The connection, parked or not. For other threads than the owner's."""
    return at_hand(wrapper) or wrapper.parked


class Recaller:
    """Looks after loans that may be recalled, in the maintenance thread."""

    def __init__(self) -> None:
        self._ticket = background.join(self)
        self.start_empty()

    def start_empty(self) -> None:
        """At first, and in a forked child."""
        self._leftovers: set[Leftover] = set()
        self._watched: set[Binding] = set()
        self._noted: deque[weakref.ref[Any]] = deque()

    def soon(self, wrapper: Borrower) -> None:
        """Have the wrapper's loan given back as soon as its thread is not using it."""
        if not COUNTS:
            return
        now = monotonic()
        with _lock:  # or it may be on its way to the parking place, and not be found
            loan = loans.identity(_in_hand(wrapper))
            if loan is None:
                return
            self._leftovers.add(Leftover(weakref.ref(wrapper), loan, now))
            self._ticket.by(now + SOON)

    def used_elsewhere(self, wrapper: Any) -> None:
        """As `soon`, for what finalizers call, at any instruction: takes no lock."""
        self._noted.append(weakref.ref(wrapper))
        self._ticket.now()

    def watch(self, binding: Binding) -> None:
        """Have the loans of a binding with `max_hold_idle` given back when they lie idle."""
        if binding in self._watched or not COUNTS:
            return
        with _lock:
            self._watched.add(binding)
            self._ticket.by(monotonic() + _interval(binding))

    def run(self, now: float) -> float:
        """For the maintenance thread."""
        while self._noted:
            wrapper = self._noted.popleft()()
            if wrapper is not None:
                self.soon(wrapper)
        taken: list[Any] = []
        try:
            due = min(self._recall_leftovers(now, taken), self._recall_idle(now, taken))
            with _lock:
                if not self._leftovers and not self._watched:
                    self._ticket.leave()
        finally:
            give_back_in_a_thread(taken)
        return due

    def _recall_leftovers(self, now: float, taken: list[Any]) -> float:
        """Take what is at rest; return when to look again."""
        due = NEVER
        for leftover in list(self._leftovers):
            with _lock:
                wrapper = leftover.wrapper()
                over = leftover.is_over(wrapper)
                if over or wrapper is None or _take(wrapper, PAUSE, now, taken):
                    self._leftovers.discard(leftover)
                    continue
            due = min(due, now + min(SELDOM, max(SOON, now - leftover.noted)))
        return due

    def _recall_idle(self, now: float, taken: list[Any]) -> float:
        due = NEVER
        for binding in list(self._watched):
            # First, so that who borrows from here on sees to it that there is a next time.
            with _lock:
                self._watched.discard(binding)
            lent = False
            for wrapper in registry.users(binding):
                with _lock:
                    if getattr(_in_hand(wrapper), "_pool", None) is binding.pool:
                        lent |= not _take(wrapper, binding.options.max_hold_idle, now, taken)
            if lent:
                with _lock:
                    self._watched.add(binding)
                due = min(due, now + _interval(binding))
        return due


def _take(wrapper: Borrower, seconds: float, now: float, taken: list[Any]) -> bool:
    """Under the lock: take what has been parked for so long; else see that it is parked."""
    if wrapper.parked is None:
        _park(wrapper, now)
        return False
    if now - wrapper.parked_at < seconds:
        return False
    loan = loans.of(wrapper.parked)
    # From here on the owner borrows another one, or its thread ends. There is no call in between,
    # so no interrupt: it is either still parked or taken.
    loan.pinned = loans.RECALLED
    connection, wrapper.parked = wrapper.parked, None
    taken += [connection]
    return True


def _interval(binding: Binding) -> float:
    return max(SOON, binding.options.max_hold_idle / 2)


def take_back(binding: Binding) -> None:
    """Take back, here and now, all loans of a binding that nobody is using."""
    taken: list[Any] = []
    now = monotonic()
    try:
        for wrapper in registry.users(binding):
            cast(Releaser, wrapper).end_burst()
            for _ in range(2):  # it is parked, it is taken
                with _lock:
                    if COUNTS and getattr(_in_hand(wrapper), "_pool", None) is binding.pool:
                        _take(wrapper, 0.0, now, taken)
    finally:
        give_back(taken)


def give_back_in_a_thread(connections: list[Any]) -> None:
    """For the maintenance thread, because cleaning a session can take long."""
    if not connections:
        return
    thread = threading.Thread(
        target=give_back, args=(connections,), name="django-connpool-recall", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:  # there are no more threads to be had
        give_back(connections)


def give_back(connections: list[Any]) -> None:
    """Give back what was taken from others, for whom nobody could be told of an error."""
    while connections:
        connection = connections.pop()
        pool = connection._pool
        try:
            pool.putconn(connection)
        except Exception:
            logger.exception("%s: taking a connection back failed", pool.name)


recaller = Recaller()


def _start_anew() -> None:
    """In a forked child, where no other thread is left to give the lock back."""
    global _lock
    _lock = threading.RLock()
    recaller.start_empty()


forks.in_child(_start_anew, forks.Floor.LOANS)
