"""Waiting for what is to happen, borrowing in threads, and running a process of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from django_connpool import ConnectionPool
from tests import inside

LOGGER = "django_connpool.pool"
DEADLINE = 30.0  # seconds: when what should happen soon is given up
ROOT = Path(__file__).parents[3]


def until(condition: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """Return the condition's value as soon as it is true; AssertionError after the deadline."""
    give_up = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.002)
    return value


def until_waiting(pool: ConnectionPool[Any], count: int) -> None:
    """Return when so many borrowers are in line."""
    until(lambda: pool.snapshot()["waiting"] == count)


def until_known(pool: ConnectionPool[Any]) -> None:
    """Return when the pool knows its server's functions: until then it cleans every session."""

    def is_known() -> bool:
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        return inside.knows_functions(pool)

    until(is_known)


def until_idle(pool: ConnectionPool[Any], count: int) -> None:
    """Return when so many connections are idle, and none is on its way in or out."""
    until(lambda: counts(pool) == (count, 0, 0))


def counts(pool: ConnectionPool[Any]) -> tuple[int, int, int]:
    seen = pool.snapshot()
    return seen["idle"], seen["opening"], seen["closing"]


def pid(conn: psycopg.Connection[Any]) -> int:
    return conn.info.backend_pid


def pids_of(pool: ConnectionPool[Any], count: int) -> list[int]:
    """Borrow so many at a time, give them back, and return their backends."""
    conns = [pool.getconn() for _ in range(count)]
    pids = [pid(conn) for conn in conns]
    for conn in conns:
        pool.putconn(conn)
    return pids


def served(pool: ConnectionPool[Any]) -> int:
    """Borrow and use a connection; return its backend, 0 when there is none to be had yet."""
    try:
        with pool.connection() as conn:
            conn.execute("SELECT 1")
            return pid(conn)
    except (psycopg.Error, LookupError, RuntimeError):
        return 0


class Borrower:
    """A thread that borrows, keeps what it got until `give_back()`, and tells what became of it."""

    def __init__(
        self,
        pool: ConnectionPool[Any],
        timeout: float | None = DEADLINE,
        served: list[Borrower] | None = None,
    ) -> None:
        self.pool = pool
        self.timeout = timeout
        self.conn: Any = None
        self.error: BaseException | None = None
        self._served = served
        self._may_go = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            conn = self.pool.getconn(self.timeout)
        except BaseException as error:
            self.error = error
            return
        if self._served is not None:
            self._served.append(self)
        self.conn = conn
        self._may_go.wait(4 * DEADLINE)
        self.pool.putconn(conn)

    def got(self) -> int:
        """Wait for the connection, which is kept; return its backend."""
        until(lambda: self.conn is not None or self.error is not None)
        if self.error is not None:
            raise self.error
        return pid(self.conn)

    def failed(self, timeout: float = DEADLINE) -> BaseException:
        """Wait for the error."""
        until(lambda: self.conn is not None or self.error is not None, timeout)
        assert self.error is not None, "it was served"
        return self.error

    def give_back(self) -> None:
        """Give back, and wait until that is done."""
        self._may_go.set()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


def holder_of(pool: ConnectionPool[Any]) -> Borrower:
    """Borrow in a thread; return once it has the connection."""
    holder = Borrower(pool)
    holder.got()
    return holder


def run_python(script: str, *args: str, warnings: str = "error") -> str:
    """Run a script in a process of its own; return what it printed. It must end well and alone."""
    command = [sys.executable, "-X", "dev", "-W", warnings, "-c", textwrap.dedent(script), *args]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def in_line(pool: ConnectionPool[Any], count: int) -> list[Borrower]:
    """So many borrowers who wait, first the one who came first."""
    waiters: list[Borrower] = []
    while len(waiters) < count:
        waiters.append(Borrower(pool))
        until_waiting(pool, len(waiters))
    return waiters
