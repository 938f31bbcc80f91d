"""Everything at once, with real threads: nothing is shared, nothing is lost, the numbers add up."""

from __future__ import annotations

import gc
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from psycopg import OperationalError
from psycopg.pq import TransactionStatus

from django_connpool import ConnectionPool
from tests import inside
from tests.pool.real.helpers import until

from .fake import FakeServer, fake_pool, working_pool

DEADLINE = 60.0  # seconds; of a machine that has other things to do
MAX_SIZE = 3
LOANS = 200


@pytest.fixture(autouse=True)
def hurried_threads(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Threads take turns as often as the interpreter can, and do not spend them on the log."""
    caplog.set_level(logging.CRITICAL + 1, "django_connpool.pool")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Part(threading.Thread):
    """A thread that does something again and again until the chaos is over."""

    def __init__(self, act: Callable[[random.Random], None], seed: int, is_over: Any) -> None:
        super().__init__(daemon=True)
        self.act, self.choice, self.is_over = act, random.Random(seed), is_over
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self.is_over():
                self.act(self.choice)
        except BaseException as error:
            self.failure = error


def all_end_well(parts: list[Part]) -> None:
    for part in parts:
        part.join(DEADLINE)
        assert not part.is_alive(), "somebody hangs"
        if part.failure is not None:
            raise part.failure


class Borrowers:
    """What many threads do to their loans, and what they counted."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool
        self.lock = threading.Lock()
        self.asked = self.served = self.failed = 0

    def is_over(self) -> bool:
        return self.served >= LOANS

    def borrow(self, choice: random.Random) -> None:
        with self.lock:
            self.asked += 1
        try:
            conn = self.pool.getconn(choice.choice([0, 0.001, 0.01, 0.1]))
        except OperationalError:
            with self.lock:
                self.failed += 1
            return
        with self.lock:
            self.served += 1
        assert getattr(conn, "holder", None) is None, "two borrowers of one connection"
        conn.holder = choice
        with suppress(OperationalError):
            self.use(conn, choice)
        assert conn.holder is choice
        conn.holder = None
        if choice.random() < 0.05:
            return  # and let it be found
        if choice.random() < 0.05:
            with inside.lock(self.pool):
                self.pool.putconn(conn)
        else:
            self.pool.putconn(conn)

    def use(self, conn: Any, choice: random.Random) -> None:
        what = choice.randrange(12)
        if what == 0:
            conn.execute()
        elif what == 1:
            conn.fail()
        elif what == 2:
            conn.pgconn.transaction_status = TransactionStatus.ACTIVE
        elif what == 3:
            conn.close()
        elif what == 4:
            inside.change_session(conn)
        elif what == 5:
            conn.read_only = True

    def die(self, choice: random.Random) -> None:
        """A thread borrows and ends."""
        kept: list[Any] = []

        def borrow() -> None:
            with suppress(OperationalError):
                kept.append(self.pool.getconn(0.01))

        thread = threading.Thread(target=borrow)
        thread.start()
        thread.join(DEADLINE)
        with self.lock:
            self.asked += 1
            self.served += len(kept)
            self.failed += not kept


def come_to_rest(pool: ConnectionPool[Any]) -> None:
    """Wait until every place is idle, and nothing is left to be looked after."""
    gc.collect()

    def is_at_rest() -> bool:
        inside.tick(pool)
        seen = pool.snapshot()
        return (
            seen["size"] == seen["idle"] and not seen["waiting"] and not inside.has_leftovers(pool)
        )

    until(is_at_rest)


def operate(pool: ConnectionPool[Any], server: FakeServer) -> Callable[[random.Random], None]:
    def act(choice: random.Random) -> None:
        what = choice.randrange(9)
        if what == 0:
            pool.resize(choice.choice([0, 1]), choice.randint(1, MAX_SIZE))
        elif what == 1:
            pool.drain()
        elif what == 2:
            pool.check()
        elif what == 3:
            pool.suspend()
            pool.resume()
        elif what == 4:
            server.kill_all()
        elif what == 5:
            pool.snapshot()
        elif what == 6:
            inside.tick(pool)
        elif what == 7:
            server.state = choice.choice([*["up"] * 9, "down", "starting", "full"])
        else:
            server.state = "up"

    return act


@pytest.mark.stress
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_size": 1, "max_uses": 5, "check": "always"},
        {"max_lifetime": 0.05, "max_waiting": 3, "leak_after": 0.01},
        {"min_size": 1, "max_idle": 0.01, "max_connecting": 1, "check": False},
    ],
    ids=["plain", "uses", "lifetime", "idle"],
)
def test_the_numbers_add_up_after_everything_at_once(options: dict[str, Any]) -> None:
    server = FakeServer()
    server.bound = lambda: MAX_SIZE
    pool = fake_pool(server, timeout=1, **{"max_size": MAX_SIZE, **options})
    borrowers = Borrowers(pool)
    parts = [Part(borrowers.borrow, seed, borrowers.is_over) for seed in range(5)]
    parts.append(Part(borrowers.die, 5, borrowers.is_over))
    parts += [Part(operate(pool, server), seed, borrowers.is_over) for seed in (6, 7)]
    all_end_well(parts)

    server.state = "up"
    pool.resume()
    pool.resize(0, MAX_SIZE)
    come_to_rest(pool)
    assert not server.exceeded
    seen = pool.snapshot()
    stats, counted = seen["stats"], seen["histograms"]
    opened = stats["connections_num"] - stats["connections_errors"]
    assert stats["requests_num"] == borrowers.asked
    assert stats["requests_errors"] == borrowers.failed
    assert counted["hold"]["count"] == borrowers.served
    assert counted["connect"]["count"] == opened
    assert sum(seen["closed_for"].values()) + seen["size"] == opened
    pool.close()
    until(lambda: pool.snapshot()["size"] == 0 and not server.connections)


@pytest.mark.stress
def test_borrowing_never_fails_while_another_thread_evicts() -> None:
    loans = 0
    with working_pool(FakeServer(), max_size=10) as pool:

        def is_over() -> bool:
            # How often the threads take turns is the machine's affair.
            return loans >= 1_000 and pool.snapshot()["closed_for"].get("drained", 0) > 10

        def borrow(choice: random.Random) -> None:
            nonlocal loans
            for _ in range(100):
                pool.putconn(pool.getconn())
            loans += 100

        def evict(choice: random.Random) -> None:
            pool.drain()

        all_end_well([Part(borrow, 0, is_over), Part(evict, 1, is_over)])
        seen = pool.snapshot()
    assert seen["stats"]["requests_errors"] == 0
