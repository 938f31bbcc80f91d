"""The pool against a model: any order of events, and what always holds checked after each."""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from psycopg import OperationalError
from psycopg.pq import ExecStatus

from django_connpool import PoolClosed, PoolTimeout, TooManyRequests
from tests import inside
from tests.inside import LAST_RETRY, NEVER

from .actors import Actor, Stage
from .fake import FakeClock, FakeMaintenance, FakeServer, fake_pool

TIMEOUT = 10.0  # seconds of the fake clock
BORROWERS = 6
# What becomes of a loan before it is given back.
HOW = ["execute", "fail", "mess up", "change", "spoil", "inside the lock"]


class Borrower:
    """A thread that borrows and gives back as it is told."""

    def __init__(self, machine: PoolMachine) -> None:
        self.machine = machine
        self.conn: Any = None
        self.error: BaseException | None = None
        self.arrival = 0  # its place among all who ever asked, for this borrow
        self.deadline = NEVER
        self.actor = Actor(machine.stage, self._live)
        self.actor.go()

    def _live(self, actor: Actor) -> None:
        while (order := actor.stop("ready")) is not None:
            order()

    def borrow(self, timeout: float) -> None:
        self.conn = self.error = None
        try:
            self.conn = self.machine.pool.getconn(timeout)
        except (OperationalError, KeyboardInterrupt) as error:
            self.error = error

    def give_back(self) -> None:
        conn, self.conn = self.conn, None
        self.machine.pool.putconn(conn)

    def give_back_inside_the_lock(self) -> None:
        with inside.lock(self.machine.pool):
            self.give_back()

    def drop(self) -> None:
        self.conn = None
        gc.collect(0)

    @property
    def is_waiting(self) -> bool:
        return self.actor.place == "in line"

    @property
    def is_served(self) -> bool:
        waiter = self.actor.waiter
        return waiter is not None and inside.is_served(waiter)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.clock = FakeClock()
        self.maintenance = FakeMaintenance()
        self.server = FakeServer()
        self.server.pause = self.stage.pause
        self.server.bound = lambda: self.bound
        self.workers: list[Actor] = []
        self.asked = 0
        self.patches = ExitStack()
        self.patches.enter_context(inside.maintained_by(self.maintenance))
        self.patches.enter_context(inside.waiting_by(self.stage.wait))

    @initialize(
        max_size=st.integers(1, 4),
        min_share=st.sampled_from([0, 0, 0.5, 1]),
        max_waiting=st.sampled_from([0, 0, 2]),
        max_uses=st.sampled_from([0, 0, 3]),
        max_connecting=st.integers(1, 3),
        ping_after=st.sampled_from([0.0, 30.0]),
    )
    def begin(self, max_size: int, min_share: float, **options: Any) -> None:
        self.bound: float = max_size
        self.pool = fake_pool(
            self.server,
            open=False,
            min_size=int(max_size * min_share),
            max_size=max_size,
            timeout=TIMEOUT,
            max_lifetime=300,
            max_idle=60,
            **options,
        )
        inside.set_clock(self.pool, self.clock)
        inside.hire_by(self.pool, self.hire)
        self.stage.lock_is_held = lambda: inside.is_locked(self.pool)
        self.borrowers = [Borrower(self) for _ in range(BORROWERS)]
        self.pool.open()

    def hire(self, jobs: Any) -> None:
        self.workers.append(Actor(self.stage, lambda _: inside.work(self.pool, jobs)))

    # -- what borrowers do ----------------------------------------------------------------

    def some(self, n: int, having: Any) -> Borrower | None:
        fitting = [borrower for borrower in self.borrowers if having(borrower)]
        return fitting[n % len(fitting)] if fitting else None

    @rule(n=st.integers(0, 11), timeout=st.sampled_from([TIMEOUT, TIMEOUT, TIMEOUT, 1.0, 0.0]))
    def borrow(self, n: int, timeout: float) -> None:
        borrower = self.some(n, lambda b: b.actor.place == "ready" and b.conn is None)
        if borrower is None:
            return
        in_line = [b for b in self.borrowers if b.is_waiting and not b.is_served]
        self.clock.now += 1e-6  # no two come at the very same moment, or neither is the first
        self.asked += 1
        borrower.arrival = self.asked
        borrower.deadline = self.clock() + timeout
        borrower.actor.go(lambda: borrower.borrow(timeout))
        self.look_at(borrower)
        assert borrower.conn is None or not in_line, "a newcomer overtook those in line"
        if inside.is_suspended(self.pool):
            assert isinstance(borrower.error, (type(None), PoolTimeout, TooManyRequests))

    def look_at(self, borrower: Borrower) -> None:
        """Check what a borrow came to, if it is over."""
        if borrower.conn is not None:
            assert borrower.conn.pgconn.is_alive or not self.tells(borrower.conn)
            holders = [b for b in self.borrowers if b.conn is borrower.conn]
            assert holders == [borrower], "two borrowers of one connection"
        if isinstance(borrower.error, PoolTimeout):
            assert self.clock() >= borrower.deadline
        elif isinstance(borrower.error, PoolClosed):
            assert self.pool.closed
        elif isinstance(borrower.error, TooManyRequests):
            assert len(inside.waiters(self.pool)) >= self.pool.max_waiting > 0
        elif isinstance(borrower.error, OperationalError):
            assert self.server.attempts, "the server's refusal without the server's being asked"

    def tells(self, conn: Any) -> bool:
        """Whether the death of this connection shows on its socket."""
        return bool(conn.pgconn not in self.server.connections)

    @rule(n=st.integers(0, 11))
    def wake_up(self, n: int) -> None:
        borrower = self.some(n, lambda b: b.is_waiting and b.is_served)
        if borrower is not None:
            borrower.actor.go()
            self.look_at(borrower)

    @rule(n=st.integers(0, 11))
    def give_up(self, n: int) -> None:
        borrower = self.some(n, lambda b: b.is_waiting)
        if borrower is not None:
            self.pass_time(max(0.0, borrower.deadline - self.clock()))
            borrower.actor.go()
            self.look_at(borrower)

    @rule(n=st.integers(0, 11))
    def interrupt_one_in_line(self, n: int) -> None:
        borrower = self.some(n, lambda b: b.is_waiting)
        if borrower is not None:
            borrower.actor.go(KeyboardInterrupt())
            self.look_at(borrower)
            assert isinstance(borrower.error, KeyboardInterrupt)

    @rule(n=st.integers(0, 11), how=st.sampled_from(["", "", "", *HOW]))
    def give_back(self, n: int, how: str) -> None:
        borrower = self.some(n, lambda b: b.actor.place == "ready" and b.conn is not None)
        if borrower is None:
            return
        if borrower.conn.pgconn.is_alive:
            if how == "mess up":
                borrower.conn.pgconn.transaction_status = 1  # in the middle of a statement
            elif how in ("change", "spoil"):
                inside.change_session(borrower.conn)
            elif how in ("execute", "fail"):
                getattr(borrower.conn, how)()
            if how == "spoil":
                borrower.conn.pgconn.answers = ExecStatus.FATAL_ERROR
        late = how == "inside the lock"
        borrower.actor.go(borrower.give_back_inside_the_lock if late else borrower.give_back)

    @rule(n=st.integers(0, 11))
    def drop(self, n: int) -> None:
        borrower = self.some(n, lambda b: b.actor.place == "ready" and b.conn is not None)
        if borrower is not None:
            borrower.actor.go(borrower.drop)

    @rule(n=st.integers(0, 11))
    def thread_ends(self, n: int) -> None:
        borrower = self.some(n, lambda b: b.actor.place == "ready" and b.conn is not None)
        if borrower is not None:
            borrower.actor.go(None)
            self.borrowers[self.borrowers.index(borrower)] = Borrower(self)

    # -- what workers, time and the server do ---------------------------------------------

    @rule(n=st.integers(0, 11))
    def work(self, n: int) -> None:
        if self.workers:
            worker = self.workers[n % len(self.workers)]
            worker.go()
            if worker.ended:
                self.workers.remove(worker)

    @rule(n=st.integers(0, 11))
    def interrupt_work(self, n: int) -> None:
        """As where no more threads are to be had, and a borrower does the work."""
        places = ("connecting", "closing")
        if working := [worker for worker in self.workers if worker.place in places]:
            worker = working[n % len(working)]
            with suppress(KeyboardInterrupt):
                worker.go(KeyboardInterrupt())
            assert worker.ended
            self.workers.remove(worker)

    @rule(n=st.integers(1, 30))
    def work_much(self, n: int) -> None:
        for _ in range(n):
            self.work(0)

    @rule(seconds=st.sampled_from([0.001, 0.006, 0.1, 1.0, 9.0, 31.0, 61.0, 301.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.maintain()

    @rule()
    def maintain(self) -> None:
        self.maintenance.serve(self.pool)

    @rule(state=st.sampled_from(["up", "up", "down", "starting", "full"]))
    def server_becomes(self, state: str) -> None:
        self.server.state = state

    @rule()
    def server_restarts(self) -> None:
        self.server.kill_all()

    @rule(n=st.integers(0, 11))
    def server_kills_one(self, n: int) -> None:
        backends = sorted(self.server.connections, key=lambda backend: backend.backend_pid)
        if backends:
            self.server.kill(backends[n % len(backends)])

    # -- what the operator does -----------------------------------------------------------

    @precondition(lambda self: not self.pool.closed)
    @rule(max_size=st.integers(1, 4), min_share=st.sampled_from([0, 0.5, 1]))
    def resize(self, max_size: int, min_share: float) -> None:
        # What was open or being opened before may stay for a while; nothing is added to it.
        self.bound = max(max_size, len(inside.slots(self.pool)))
        self.pool.resize(int(max_size * min_share), max_size)

    @precondition(lambda self: not self.pool.closed)
    @rule()
    def drain(self) -> None:
        self.pool.drain()

    @precondition(lambda self: not self.pool.closed)
    @rule()
    def check(self) -> None:
        self.pool.check()

    @precondition(lambda self: not self.pool.closed)
    @rule()
    def suspend(self) -> None:
        self.pool.suspend()

    @precondition(lambda self: not self.pool.closed)
    @rule()
    def resume(self) -> None:
        self.pool.resume()

    @precondition(lambda self: not self.pool.closed)
    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if not really:  # seldom: not much happens afterwards
            self.pool.close()

    # -- what always holds ----------------------------------------------------------------

    @invariant()
    def sound(self) -> None:
        self.the_server_never_sees_more_than_max_size()
        if inside.has_leftovers(self.pool):
            return  # whoever comes next begins by mending
        self.each_slot_is_in_one_state()
        self.loans_are_held_by_those_who_borrowed()
        self.the_first_come_are_the_first_served()
        self.who_waits_can_hope()
        self.what_is_to_be_done_has_a_worker()
        self.the_numbers_are_what_is()

    def the_server_never_sees_more_than_max_size(self) -> None:
        assert not self.server.exceeded
        self.bound = max(self.pool.max_size, min(self.bound, len(inside.slots(self.pool))))

    def each_slot_is_in_one_state(self) -> None:
        inside.assert_states(self.pool)

    def loans_are_held_by_those_who_borrowed(self) -> None:
        held = {inside.slot_of(b.conn) for b in self.borrowers if b.conn is not None}
        on_loan = inside.lent(self.pool)
        assert held <= on_loan
        assert on_loan - held <= inside.given_up(self.pool)

    def the_first_come_are_the_first_served(self) -> None:
        in_line = {b.actor.waiter: b.arrival for b in self.borrowers if b.is_waiting}
        queue = inside.waiters(self.pool)
        arrivals = [in_line[waiter] for waiter in queue]
        assert arrivals == sorted(arrivals)
        assert {b.actor.waiter for b in self.borrowers if b.is_waiting and not b.is_served} == {
            *queue
        }
        assert not (queue and inside.idle(self.pool) and inside.serves(self.pool))

    def who_waits_can_hope(self) -> None:
        pool = self.pool
        if not inside.waiters(pool) or inside.is_suspended(pool):
            return
        assert not pool.closed
        coming = inside.opening(pool) or inside.hired(pool)
        has_room = len(inside.slots(pool)) < pool.max_size and not coming
        if has_room and not inside.is_in_outage(pool):
            assert self.maintenance.at <= self.clock() + 1
        assert inside.on_loan(pool) or self.workers or self.maintenance.at < NEVER

    def what_is_to_be_done_has_a_worker(self) -> None:
        pool = self.pool
        to_close = inside.to_close(pool)
        at_work = len(inside.opening(pool)) + len(inside.closing(pool)) - len(to_close)
        at_work += inside.hired(pool)  # who have not taken it up yet
        assert at_work <= len(self.workers)
        assert not to_close or at_work or inside.has_leftovers(pool)

    def the_numbers_are_what_is(self) -> None:
        seen = self.pool.snapshot()
        assert seen["size"] == seen["idle"] + seen["in_use"] + seen["opening"] + seen["closing"]
        assert seen["waiting"] == sum(b.is_waiting and not b.is_served for b in self.borrowers)
        assert seen["stats"]["requests_num"] == self.asked

    # -- in the end -----------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "pool") and sys.exc_info()[0] is None:
                self.all_slots_come_back()
        finally:
            for borrower in getattr(self, "borrowers", ()):
                if borrower.actor.place == "ready" and not borrower.actor.ended:
                    borrower.actor.go(None)
            self.patches.close()

    def all_slots_come_back(self) -> None:
        """With the server up and everything given back, the pool has all its places again."""
        self.server.state = "up"
        pool = self.pool
        if inside.is_suspended(pool):
            pool.resume()
        for _ in range(200):
            self.settle_down()
            if not (self.maintenance.serve(pool) or self.is_busy()):
                break
            self.clock.now += 0.1
        assert not self.is_busy(), "somebody waits in vain"
        self.clock.now += LAST_RETRY
        assert not inside.waiters(pool)
        if pool.closed:
            assert not inside.slots(pool)
            return
        assert inside.slots(pool) == set(inside.idle(pool))
        self.bound = max(pool.max_size, len(inside.slots(pool)))
        for borrower in self.borrowers[: pool.max_size]:
            self.clock.now += 0.01
            borrower.actor.go(lambda b=borrower: b.borrow(TIMEOUT))
            for _ in range(200):
                if borrower.is_waiting and not borrower.is_served:
                    self.clock.now += 0.05
                    self.maintenance.serve(pool)
                    self.work(0)
            if borrower.is_waiting:
                borrower.actor.go()
            assert borrower.conn is not None, borrower.error
        for borrower in self.borrowers:
            if borrower.conn is not None:
                borrower.actor.go(borrower.give_back)
        pool.close()
        self.settle_down()
        assert not inside.slots(pool)
        assert not self.server.connections

    def is_busy(self) -> bool:
        return bool(self.workers) or any(b.is_waiting or b.conn for b in self.borrowers)

    def settle_down(self) -> None:
        for borrower in self.borrowers:
            if borrower.is_served:
                borrower.actor.go()
            if borrower.actor.place == "ready" and borrower.conn is not None:
                borrower.actor.go(borrower.give_back)
        while self.workers:
            self.work(0)
        if inside.has_leftovers(self.pool):
            self.maintenance.serve(self.pool)


@pytest.mark.stress
class TestModel(PoolMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=400,
        stateful_step_count=80,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
