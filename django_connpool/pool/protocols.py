"""What a pool needs of what it lends, and of who opens it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

Interrupt: TypeAlias = Callable[[float], None]  # is given a deadline of the monotonic clock


class Session(Protocol):
    """A connection to a server. `django_connpool.session.session.Session` is one.

    What is said of the server costs no round trip unless it is said.
    """

    conn: Any  # what is lent; None while it is
    # Not None while it is not known whether it is clean; `undoes` is 0 if it only asks something.
    cleaning: Any
    backend_pid: int

    def is_alive(self) -> bool:
        """Of an idle one: whether anything says that it is dead. Never blocks."""

    def answers(self, patience: float = ...) -> bool:
        """Of an idle one: one round trip."""

    def check(self) -> None:
        """Have the user's own check look at it; raises what that raises."""

    def can_stay(self) -> bool:
        """Whether it is as it was, of one that its borrower does not use at the moment."""

    def goes_on(self) -> bool:
        """End a loan of which that was so, and begin another; False when it has to be cleaned."""

    def comes_back_fit(self, conn: Any) -> bool:
        """End a loan, if others may get what comes back as it is; else do nothing."""

    def make_fit(self, conn: Any) -> str:
        """End a loan, and have it so; or say why it must be closed."""

    def takes_time(self) -> bool:
        """Whether `make_fit` would wait for the server, or call what is the user's."""

    def is_clean(self, conn: Any) -> bool:
        """Under the lock: whether others may get it as it is. Sends nothing."""

    def rest(self) -> None:
        """End a loan of one that is clean. Under the lock."""

    def adopt(self, conn: Any) -> None:
        """What it is like now belongs to it from its birth."""

    def cleaned(self, patience: float = ...) -> bool | None:
        """Whether it has become clean; None when that is not known after so many seconds."""

    def is_ready(self) -> bool:
        """Whether `cleaned` would know."""

    def in_the_middle_of(self) -> str:
        """ "a transaction", "a statement", or nothing."""

    def transaction(self) -> str:
        """The state it is in, in one word."""

    def last_statement(self) -> str:
        """The last one of this loan, for a message."""

    def reachable(self) -> Any:
        """What is lent, or to be lent; None if it was dropped, and where that is not known."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody has what was lent, nor can come by it any more."""

    def in_use(self) -> bool:
        """Whether a thread works with it at this moment."""

    def is_busy(self) -> bool:
        """Whether a statement is under way."""

    def interrupt(self) -> Interrupt | None:
        """How to have the server end the statement under way; None when there is none."""

    def silence(self) -> float:
        """For how many seconds nothing went to and fro."""

    def has_vanished(self) -> bool:
        """Whether its server answers nobody. Takes seconds."""

    def give_up(self) -> None:
        """Have whoever waits for its answer get an error."""

    def after_refused_write(self) -> tuple[bool, bool]:
        """Whether it is to be replaced, and whether every other of its time is."""

    @property
    def is_lost(self) -> bool:
        """Whether it is known that the connection is gone."""

    @property
    def is_broken(self) -> bool:
        """Whether it is, and its borrower has not closed it."""

    def say_goodbye(self) -> Interrupt | None:
        """Close it; return how to interrupt what its server is busy with."""

    def say_goodbye_for_borrower(self) -> None:
        """Close it in the stead of its borrower, unless he uses it."""

    def await_end(self, seconds: float, interrupt: Interrupt | None = None) -> bool:
        """Wait, at most so long, until the server has let go of it; say whether it has."""

    def bury(self, grave: Any) -> None:
        """In a forked child: make it harmless."""


class Opener(Protocol):
    """Opens what a pool lends. `django_connpool.session.opening.Opening` is one."""

    def open(self, keeper: Any, hurry: bool) -> Session:
        """Return a new one, which is `keeper.session` too. Blocks; raises what there is to say."""

    def meaning(self, error: BaseException) -> tuple[str, bool]:
        """Of an error of `open`: its kind (see outage.py), and whether time may heal it."""

    @property
    def has_answers(self) -> bool:
        """Whether there is something for `read_answers` to do."""

    def read_answers(self) -> None:
        """What it does when it has the time. Blocks."""

    def forget(self) -> None:
        """In a forked child: start anew."""


class Look(NamedTuple):
    """What there is in a pool that shares a bound with others, at a moment."""

    idle: int  # connections that could be given up at once, to who has none
    spare: int  # of these, such that could be given up to anybody
    resting: int  # others that nobody uses, and soon could
    spare_in: float  # seconds until there may be one more of those that are spare
    giving: int  # that are being closed
    waiting: int  # borrowers in line
    wants: int  # connections that it would open now
    since: float  # when the first in line came


class Plan(NamedTuple):
    """What such a pool is to do."""

    gives: int  # so many idle connections to close
    parts: bool  # and the next one that comes back
    beyond: frozenset[int]  # places that are no more, whose connections are to be closed
    has_place: bool  # to open a connection, for there is a place
    again: float  # when to come again


class Places(Protocol):
    """A pool's part of the bounds that it shares. `django_connpool.places` has the one there is.

    The pool's lock is held; nothing blocks.
    """

    complaints: deque[tuple[Any, ...]]  # texts to log, with their arguments

    def attach(self, ring: Callable[[], None]) -> None:
        """`ring` has `tick` called soon; it takes no lock."""

    def may_open(self, coming: int) -> bool:
        """Whether to ask for a place, beside so many that are asked for."""

    def take(self, now: float) -> int | None:
        """A place for one more connection; None when there is none now, and `tick` will tell."""

    def keep(self, held: Collection[int], now: float) -> None:
        """Only these of its places are used any more."""

    def doubt(self, place: int) -> None:
        """The server may not have let go of the connection in it yet."""

    def tick(self, look: Look, now: float) -> Plan:
        """Tell the others what there is, look what they say, and decide what to do."""

    def bells(self) -> list[Any]:
        """Sockets that become readable when `tick` is wanted."""

    def silence(self) -> None:
        """Read what rang."""

    def leave(self, now: float) -> None:
        """The pool is closed and empty."""

    def forget(self) -> None:
        """In a forked child: the places are the parent's."""

    def seen(self, now: float) -> list[dict[str, Any]]:
        """Each bound, and who has how much of it."""


class Sharing(Protocol):
    """How a pool asks for places: see sharing.py. Under the pool's lock."""

    def may_open(self, coming: int) -> bool:
        """Whether it is worth the while to ask for one, beside so many attempts to come."""

    def take(self, slot: Any) -> bool:
        """Give a slot that is about to be opened its place; False when there is none now."""

    def keep(self) -> None:
        """Give back the places of slots that are gone."""

    def doubt(self, slot: Any) -> None:
        """It is not known that the server has let go of this one."""

    def forget(self) -> None:
        """In a forked child."""

    def seen(self) -> list[dict[str, Any]]:
        """Each bound, and who has how much of it."""


class Events(Protocol):
    """Who hears of what happens in a pool: see news.py."""

    def are_heard(self, event: str) -> bool:
        """Whether anybody wants to hear of it. Under the lock, so it takes none."""

    def tell(self, event: str, pool: Any, facts: Mapping[str, object]) -> None:
        """Tell those who want to. Without the lock; raises nothing."""


class Errors(NamedTuple):
    """What a pool raises."""

    closed: type[Exception]
    timeout: type[Exception]
    full: type[Exception]  # `max_waiting` are in line already
    failed: type[Exception]  # anything else; also what the driver raises
    misuse: type[Exception]  # what is given back in a transaction, where that is an error
