"""A server, a driver and a clock that do what the test says, and count what they see.

The connections have real sockets, so that what reads them, duplicates them and waits for their
end is the pool's own code.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from psycopg import OperationalError, ProgrammingError
from psycopg.pq import (
    ConnStatus,
    DiagnosticField,
    ExecStatus,
    PipelineStatus,
    PollingStatus,
    TransactionStatus,
)

from django_connpool import ConnectionPool
from tests import inside

REFUSALS = {
    "down": "connection failed: Connection refused",
    "starting": "FATAL:  the database system is starting up",
    "full": "FATAL:  sorry, too many clients already",
}


class FakeClock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeMaintenance:
    """The background with one task, without a thread: it remembers a deadline and is asked."""

    def __init__(self) -> None:
        self.at = inside.NEVER
        self.watched = False

    @property
    def due(self) -> float:
        return self.at

    def by(self, at: float) -> None:
        self.at = min(self.at, at)

    def attend(self) -> None:
        self.watched = True

    def now(self) -> None:
        pass

    def leave(self) -> None:
        self.at = inside.NEVER

    def serve(self, pool: ConnectionPool[Any]) -> bool:
        """Do what the thread would do at this moment; say whether that was anything."""
        if self.at > inside.clock(pool)() and not inside.has_leftovers(pool):
            return False
        self.at = inside.NEVER
        inside.tick(pool)
        return True


class FakeServer:
    """Counts its connections at every instant; is up, down, starting or full as told."""

    def __init__(self) -> None:
        self.state = "up"
        self.bound: Callable[[], float] = lambda: inside.NEVER
        self.places = inside.NEVER  # for so many connections
        self.connections: set[FakePGconn] = set()
        self.most = 0
        self.attempts = 0
        self.exceeded = False
        self.lingers = False  # backends stay a while after a goodbye, until `reap`
        self.pause: Callable[[str], Any] = lambda where: None
        self._lingering: list[FakePGconn] = []
        # Reentrant: a connection may be collected, and so say goodbye, inside a section below.
        self._lock = threading.RLock()

    def admit(self, backend: FakePGconn) -> None:
        """Let a connection in, or refuse as PostgreSQL would."""
        with self._lock:
            self.attempts += 1
            if self.state != "up":
                raise OperationalError(REFUSALS[self.state])
            if len(self.connections) >= self.places:
                raise OperationalError(REFUSALS["full"])
            self.connections.add(backend)
            self.most = max(self.most, len(self.connections))
            self.exceeded |= len(self.connections) > self.bound()

    def goodbye(self, backend: FakePGconn) -> None:
        with self._lock:
            if self.lingers:
                self._lingering.append(backend)
            else:
                self._exit(backend)

    def reap(self) -> None:
        """Have the lingering backends exit."""
        with self._lock:
            while self._lingering:
                self._exit(self._lingering.pop())

    def kill(self, backend: FakePGconn) -> None:
        """End a session as pg_terminate_backend, a restart or a firewall does."""
        with self._lock:
            self._exit(backend)

    def kill_all(self) -> None:
        for backend in list(self.connections):
            self.kill(backend)

    def _exit(self, backend: FakePGconn) -> None:
        self.connections.discard(backend)
        backend.far_end.close()


_pids = itertools.count(1)


class FakePGconn:
    """What the pool uses of psycopg's PGconn."""

    db, host, port, server_version = b"fake", b"localhost", b"5432", 180000

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.near_end, self.far_end = socket.socketpair()
        self.backend_pid = next(_pids)
        self.status = ConnStatus.OK
        self.transaction_status = TransactionStatus.IDLE
        self.pipeline_status = PipelineStatus.OFF
        self.notice_handler: Any = None
        self.notices: list[tuple[bytes, bytes]] = []
        self.statements: list[bytes] = []
        self.busy = 0  # how often to say that the answer is not complete yet
        self.answers = ExecStatus.EMPTY_QUERY
        self._results = 0

    @property
    def socket(self) -> int:
        if self.status == ConnStatus.BAD:
            raise OperationalError("the connection is lost")
        return self.near_end.fileno()

    @property
    def is_alive(self) -> bool:
        return self.status == ConnStatus.OK and self in self.server.connections

    def lose(self) -> OperationalError:
        """Notice the death, as libpq does when it reads or writes."""
        self.status = ConnStatus.BAD
        self.transaction_status = TransactionStatus.UNKNOWN
        return OperationalError("server closed the connection unexpectedly")

    def say(self, severity: bytes, state: bytes) -> None:
        """Have the server say something nobody asked for."""
        self.notices.append((severity, state))
        self.far_end.send(b"N")

    def consume_input(self) -> None:
        if self.status == ConnStatus.BAD:
            raise self.lose()
        try:
            said = self.near_end.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not said:
            raise self.lose()
        while self.notices:
            severity, state = self.notices.pop(0)
            fields = {
                DiagnosticField.SEVERITY_NONLOCALIZED: severity,
                DiagnosticField.SQLSTATE: state,
            }
            self.notice_handler(SimpleNamespace(error_field=fields.get))

    def is_busy(self) -> bool:
        if not self.busy:
            return False
        self.busy -= 1
        if not self.busy:  # it comes
            self.far_end.send(b"A")
        return True

    def send_query(self, statement: bytes) -> None:
        if not self.is_alive:
            raise self.lose()
        self.statements.append(statement)
        self._results = 1

    def flush(self) -> int:
        return 0

    def get_result(self) -> Any:
        self._results -= 1
        if self._results < 0:
            return None
        none: dict[int, bytes] = {}
        return SimpleNamespace(status=self.answers, nfields=0, error_field=none.get)

    def exec_(self, statement: bytes) -> Any:
        if not self.is_alive:
            raise self.lose()
        self.statements.append(statement)
        return SimpleNamespace(status=ExecStatus.COMMAND_OK)

    def notifies(self) -> Any:
        return None

    def get_cancel(self) -> Any:
        return SimpleNamespace(cancel=lambda: None)

    def cancel_conn(self) -> Any:
        return SimpleNamespace(
            reset=lambda: None, start=lambda: None, poll=lambda: PollingStatus.OK
        )

    def finish(self) -> None:
        if self.near_end.fileno() < 0:
            return
        self.status = ConnStatus.BAD
        self.transaction_status = TransactionStatus.UNKNOWN
        self.server.goodbye(self)
        self.near_end.close()

    def __del__(self) -> None:
        self.near_end.close()
        self.server.kill(self)


class FakeConnection:
    """What the pool uses of psycopg's Connection, and what a borrower does to it."""

    info = SimpleNamespace(encoding="utf-8")

    def __init__(self, pgconn: FakePGconn) -> None:
        self.pgconn = pgconn
        self.autocommit = False
        self.isolation_level: Any = None
        self.read_only: Any = None
        self.deferrable: Any = None
        self.lock = threading.Lock()
        self._prepared: dict[str, Any] = {}
        self._pool: Any = None

    @classmethod
    def connect(cls, conninfo: str = "", *, server: FakeServer, **kwargs: Any) -> FakeConnection:
        server.pause("connecting")
        pgconn = FakePGconn(server)
        server.admit(pgconn)
        server.pause("connected")
        return cls(pgconn)

    @property
    def closed(self) -> bool:
        return self.pgconn.status == ConnStatus.BAD

    broken = closed

    def execute(self, statement: str = "") -> None:
        """Run a statement: it opens a transaction."""
        if not self.pgconn.is_alive:
            raise self.pgconn.lose()
        if not self.autocommit:
            self.pgconn.transaction_status = TransactionStatus.INTRANS

    def fail(self) -> None:
        """Run a statement that fails."""
        self.execute()
        self.pgconn.transaction_status = TransactionStatus.INERROR

    def rollback(self) -> None:
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            raise ProgrammingError("another command is in progress")
        if not self.pgconn.is_alive:
            raise self.pgconn.lose()
        self.pgconn.transaction_status = TransactionStatus.IDLE

    commit = rollback

    def close(self) -> None:
        if self._pool is not None and self._pool.close_returns:
            self._pool.putconn(self)
            return
        self.pgconn.server.pause("closing")
        self.pgconn.finish()

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.closed:
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()
        if self._pool is None:
            self.close()


def fake_pool(server: FakeServer, **kwargs: Any) -> ConnectionPool[Any]:
    """A pool on the fake driver; nothing is opened up front, as long as the test says no more."""
    return ConnectionPool(
        connection_class=FakeConnection,  # type: ignore[type-var]
        kwargs={"server": server},
        **{"min_size": 0, "max_size": 2, **kwargs},
    )


@contextmanager
def working_pool(server: FakeServer, **kwargs: Any) -> Iterator[ConnectionPool[Any]]:
    """A pool on the fake driver with real threads, closed with the block."""
    with fake_pool(server, **kwargs) as pool:
        yield pool
