"""A connection pool for psycopg 3, usable without Django.

`ConnectionPool` takes the arguments and has the methods of `psycopg_pool.ConnectionPool`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from operator import attrgetter
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg import OperationalError, ProgrammingError

from .block import Loan
from .errors import PoolClosed, PoolTimeout, TooManyRequests
from .pool.awaiting import Awaited
from .pool.control import Control
from .pool.core import Core
from .pool.crew import Crew
from .pool.limits import Limits
from .pool.locking import LOCKED_AFTER
from .pool.offers import Watch
from .pool.protocols import Errors, Events, Places
from .pool.sharing import Sharing
from .pool.upkeep import Upkeep
from .process import ending
from .process.background import NEVER, background
from .session.liveness import ping
from .session.opening import Opening
from .session.policy import Policy
from .session.pooler import AUTO, PGBOUNCER
from .session.returning import returning

PING_AFTER = 30.0  # seconds of idleness after which the socket's silence is not believed

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

ConnectionCB: TypeAlias = Callable[[Any], None]
ConninfoParam: TypeAlias = str | Callable[[], str]
KwargsParam: TypeAlias = dict[str, Any] | Callable[[], dict[str, Any]]
CheckParam: TypeAlias = str | bool | ConnectionCB | None
ResetParam: TypeAlias = str | bool | ConnectionCB | None

_CONNECTION: Any = psycopg.Connection
_ERRORS = Errors(PoolClosed, PoolTimeout, TooManyRequests, OperationalError, ProgrammingError)
_numbers = itertools.count(1)


class _Setting:
    """A setting of a pool, where it is kept: to be read and to be changed."""

    def __init__(self, where: str) -> None:
        self._owner_of = attrgetter(where)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: Any, owner: type | None = None) -> Any:
        return self if pool is None else getattr(self._owner_of(pool), self._name)

    def __set__(self, pool: Any, value: Any) -> None:
        setattr(self._owner_of(pool), self._name, value)


class _Limit(_Setting):
    """One of a pool's limits. Raises ValueError for what makes no sense."""

    def __set__(self, pool: Any, value: Any) -> None:
        self._owner_of(pool).change(self._name, value)


class ConnectionPool(Awaited, Generic[CT]):
    """A bounded pool of psycopg connections, first come, first served.

    The arguments are those of `psycopg_pool.ConnectionPool`, with the same meaning, and:

    `check`: "auto" looks at the socket at each borrow and asks the server only after
    `ping_after` seconds of idleness (30); "always" asks each time; False or None never; or
    a callable that is given the connection before each loan, its first one included, and
    raises when it is not to be served: then another is tried, as long as its borrower has time.
    `reset`: "auto" gives a session that was changed, on the server or on the connection
    object, the state it was born with (`configure` included); "always" every session, for
    what cannot be seen from outside; False or None only rolls back; or a callable.
    `reset_functions`: names of functions on the server that give state to the session, beside
    those that the pool finds by itself.
    `strict`: giving back in a transaction raises ProgrammingError instead of a warning.
    `max_uses`: loans after which a connection is replaced; 0 is no limit.
    `max_connecting`: attempts to connect under way at once.
    `jitter`: the share of `max_lifetime` by which lives are shortened at random, 0 to 1.
    `leak_after`: seconds after which a loan is reported in the log; 0 is never.
    `command_timeout`: longest a statement may run, given to the server at connect.
    `outage_patience`: how long borrowers wait for a server that has just gone to come back;
    later they get its error at once.
    `has_offers`: borrowers will let others take what they do not use at the moment.
    `keep_min`: False opens `min_size` only once `warm` is called.
    `describe`: called at each borrow; what it returns tells in reports, by its str(), what
    the loan is for.
    `behind`: "pgbouncer" for a pooler before the server that lends a session for one transaction;
    "server" for none; "auto" looks and says so in the log. See session/pooler.py.
    `events`: who hears of waits, leaks, closings and outages: see pool/protocols.py.
    `places`: its part of bounds that it shares with other pools: see pool/protocols.py.

    `locked_after`: how long nothing moves before it is looked whether all of those for whom
    `describe` knows a name wait for each other, which is told at once.

    All times are seconds. Raises ValueError for sizes and times that make no sense.
    """

    name = _Setting("_core")
    conninfo = _Setting("_opening")
    kwargs = _Setting("_opening")
    connection_class = _Setting("_opening")
    timeout = _Limit("_core.limits")
    max_waiting = _Limit("_core.limits")
    max_lifetime = _Limit("_core.limits")
    max_idle = _Limit("_core.limits")
    max_uses = _Limit("_core.limits")
    max_connecting = _Limit("_core.limits")
    reconnect_timeout = _Limit("_core.limits")
    outage_patience = _Limit("_core.limits")
    num_workers = _Limit("_core.limits")
    jitter = _Limit("_core.limits")
    leak_after = _Limit("_core.limits")
    command_timeout = _Limit("_core.limits")

    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = _CONNECTION,
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB | None = None,
        check: CheckParam = "auto",
        reset: ResetParam = "auto",
        reset_functions: Iterable[str] = (),
        strict: bool = False,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        reconnect_failed: ConnectionCB | None = None,
        num_workers: int = 3,
        max_uses: int = 0,
        max_connecting: int = 8,
        jitter: float = 0.1,
        leak_after: float = 0.0,
        command_timeout: float | None = None,
        outage_patience: float = 3.0,
        ping_after: float = PING_AFTER,
        locked_after: float = LOCKED_AFTER,
        keep_min: bool = True,
        has_offers: bool = False,
        describe: Callable[[], object] | None = None,
        events: Events | None = None,
        behind: str = AUTO,
        places: Places | None = None,
    ) -> None:
        name = name or f"pool-{next(_numbers)}"
        self.close_returns = close_returns
        limits = Limits(
            min_size=min_size,
            max_size=min_size if max_size is None else max_size,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            max_uses=max_uses,
            max_connecting=max_connecting,
            reconnect_timeout=reconnect_timeout,
            outage_patience=outage_patience,
            num_workers=num_workers,
            jitter=jitter,
            leak_after=leak_after,
            command_timeout=command_timeout,
            ping_after=ping_after if check == "auto" else (0.0 if check else NEVER),
            locked_after=locked_after,
            asks_each=bool(check) and check != "auto",
            has_check=callable(check),
            has_reset=callable(reset),
            strict=strict,
            has_offers=has_offers,
        )
        self._check = check  # Django's own tests look at it, for psycopg_pool has it
        self._opening = Opening(
            Policy(name, check, reset, reset_functions, behind),
            conninfo,
            kwargs,
            returning(connection_class) if close_returns else connection_class,
            configure,
            None if behind == PGBOUNCER else command_timeout,  # which refuses startup options
        )
        core = Core(name, limits, self._opening, _ERRORS, monotonic, keep_min, describe)
        core.news.events = events
        crew = Crew(core, _of(self, reconnect_failed) if reconnect_failed else None)
        upkeep = Upkeep(core, crew)
        core.ticket = background.join(upkeep)
        watch = Watch(core, crew)
        watch.ticket = background.join(watch, lasts=False)
        if places is not None:
            core.sharing = sharing = Sharing(core, crew, places)
            sharing.ticket = background.join(sharing, lasts=False)
            places.attach(sharing.come)
        super().__init__(core, crew, upkeep, watch)
        self._control = Control(core, crew)
        ending.enrol(self._control)
        if open or open is None:
            self.open()

    # -- What it is -----------------------------------------------------------------------

    @property
    def min_size(self) -> int:
        return self._core.limits.min_size

    @property
    def max_size(self) -> int:
        return self._core.limits.max_size

    @property
    def closed(self) -> bool:
        """Whether the pool is closed, or was not opened yet."""
        return self._core.closed

    @property
    def is_awaited(self) -> bool:
        """Whether somebody stands in line for a connection, at this moment."""
        return bool(self._core.line)

    # -- Borrowing ------------------------------------------------------------------------

    if TYPE_CHECKING:

        def getconn(self, timeout: float | None = None) -> CT: ...

    def connection(self, timeout: float | None = None) -> Loan[CT]:
        """Borrow a connection for a block; its transaction ends with the block.

        Commits when the block ends well, rolls back when it raises, and gives back.
        """
        return Loan(self, timeout)

    # -- The pool as a whole --------------------------------------------------------------

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to serve; with `wait`, return once `min_size` connections are open.

        Opening an open pool does nothing. Raises PoolClosed when it was closed before.
        """
        self._control.open()
        if wait:
            self.wait(timeout)

    def warm(self) -> None:
        """Have `min_size` connections opened, in the background, and kept from now on."""
        self._control.warm()

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until `min_size` connections are open.

        Raises PoolTimeout, and closes the pool, when that takes more than `timeout` seconds;
        PoolClosed when it is closed meanwhile.
        """
        self._control.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: waiters get PoolClosed, idle connections are closed.

        Loans finish in peace and are closed when given back. Waits at most `timeout`
        seconds for the closing of what was idle. Closing twice does nothing.
        """
        self._control.close(timeout)

    def drain(self) -> None:
        """Replace every connection: idle ones now, loans when they are given back."""
        self._control.drain()

    def check(self) -> None:
        """Try every idle connection with a round trip; replace those that fail."""
        self._control.check()

    @staticmethod
    def check_connection(conn: CT) -> None:
        """A `check` callback: one round trip. Raises OperationalError when that fails."""
        if not ping(conn.pgconn):
            raise OperationalError("the connection did not answer")

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the bounds while running; what is too much closes as it becomes idle."""
        self._control.resize(min_size, min_size if max_size is None else max_size)

    def close_idle(self) -> None:
        """Close idle connections, the longest idle first, until `min_size` are open."""
        self._control.close_idle()

    def cancel(self, backend_pid: int, number: int | None = None, timeout: float = 5.0) -> bool:
        """Ask the server to end what the loan of that backend is busy with; False if nothing.

        Its borrower gets QueryCanceled, and the connection goes to nobody else. `backend_pid` and
        `number` are those of a loan in `snapshot()`; without the number it is the loan that this
        connection is on now. Raises ProgrammingError when there is no such loan, OperationalError
        when the server was not reached.
        """
        return self._control.cancel(backend_pid, number, timeout)

    def suspend(self) -> None:
        """Lend nothing more until `resume`; borrowers wait in line, loans go on."""
        self._control.suspend()

    def resume(self) -> None:
        """End `suspend`: serve those in line, in order."""
        self._control.resume()

    def __enter__(self) -> ConnectionPool[CT]:
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    # -- What there is to see -------------------------------------------------------------

    def get_stats(self) -> dict[str, int]:
        """Counters since the pool was made, and sizes now; psycopg_pool's keys and ours."""
        return self._control.stats()

    def pop_stats(self) -> dict[str, int]:
        """As `get_stats`, and start counting anew."""
        return self._control.stats(anew=True)

    def snapshot(self) -> dict[str, Any]:
        """Everything there is to see, at one moment; opens nothing. Times are seconds."""
        return self._control.snapshot()

    def glance(self) -> dict[str, Any]:
        """The quick part of it: no histograms, no history, nothing of what the borrowers are at."""
        return self._control.glance()

    def numbers(self) -> dict[str, Any]:
        """The snapshot but for the loans: all that can be added up, for metrics."""
        return self._control.numbers()

    def durations(self) -> dict[str, list[float]]:
        """Each wait, hold and connect time since the last call, in seconds; see `MOST_KEPT`."""
        return self._control.durations()

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.name!r}>"


def _of(pool: ConnectionPool[Any], callback: ConnectionCB) -> Callable[[], None]:
    """What calls the callback with the pool, and does not keep the pool alive."""
    ref = weakref.ref(pool)

    def call() -> None:
        if (alive := ref()) is not None:
            callback(alive)

    return call
