"""What a pool needs of what it lends, and of who opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        """What is lent, or to be lent; None when its borrower has dropped it."""

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

    def await_end(self, seconds: float, interrupt: Interrupt | None = None) -> None:
        """Wait, at most so long, until the server has let go of it."""

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
