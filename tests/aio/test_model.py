"""The pool against its model once more: with tasks among the borrowers, which may be cancelled."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from psycopg import OperationalError

from django_connpool import PoolClosed, PoolTimeout, TooManyRequests
from tests import inside
from tests.pool.actors import Actor
from tests.pool.fake import FakeClock
from tests.pool.test_model import TIMEOUT, PoolMachine

TASKS = 5
# What becomes of a task's loan before it is given back.
HOW = ["execute", "fail", "mess up", "change", "drop", "end"]


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs one round of what is ready when told; its time is the model's."""

    def __init__(self, clock: FakeClock) -> None:
        self.time = clock  # type: ignore[method-assign]
        super().__init__()
        self.is_over = False

    is_over = True  # or not begun

    def is_running(self) -> bool:
        """To others it looks as if it ran: between two rounds a real one is only slow."""
        return not self.is_over

    def _check_running(self) -> None:
        pass

    def step(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()


class TaskBorrower:
    """A task that borrows, and has its loan until it is told what to do with it."""

    def __init__(self, machine: TaskMachine) -> None:
        self.machine = machine
        self.conn: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self.name = ""
        self.deadline = 0.0

    def begin(self, timeout: float, name: str) -> None:
        self.error, self.name = None, name
        self.task = self.machine.loop.create_task(self._live(timeout), name=name)

    async def _live(self, timeout: float) -> None:
        try:
            pool = self.machine.pool
            self.conn = pool.lend_at_once() or await pool.lend(timeout)
        except OperationalError as error:
            self.error = error
            return
        self.may_end = self.machine.loop.create_future()
        await self.may_end

    @property
    def is_asking(self) -> bool:
        return self.task is not None and not self.task.done() and self.conn is None


class TaskMachine(PoolMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop(self.clock)
        self.tasks = [TaskBorrower(self) for _ in range(TASKS)]
        self.aside: list[Actor] = []  # who checks, or gives back, in a task's stead

    def hire(self, jobs: Any) -> None:
        if jobs.name.endswith("-worker"):
            super().hire(jobs)
        else:
            self.workers.append(Actor(self.stage, lambda _: jobs.run()))
            if jobs.name.endswith(("-checks", "-returns")):
                self.aside.append(self.workers[-1])

    def one_of(self, n: int, having: Any) -> TaskBorrower | None:
        fitting = [each for each in self.tasks if having(each)]
        return fitting[n % len(fitting)] if fitting else None

    def in_line(self) -> list[Any]:
        return inside.waiters(self.pool)

    # -- what tasks do --------------------------------------------------------------------

    @rule(n=st.integers(0, 11), timeout=st.sampled_from([TIMEOUT, TIMEOUT, 1.0, 0.0]))
    def task_borrows(self, n: int, timeout: float) -> None:
        each = self.one_of(n, lambda one: one.task is None or (one.task.done() and not one.conn))
        if each is None:
            return
        before = self.in_line()
        self.clock.now += 1e-6
        self.asked += 1
        each.deadline = self.clock() + timeout
        each.begin(timeout, str(self.asked))
        self.loop.step()
        self.look_at_task(each)
        assert each.conn is None or not before, "a newcomer overtook those in line"

    def look_at_task(self, each: TaskBorrower) -> None:
        if each.conn is not None:
            everyone = [*self.borrowers, *self.tasks]
            assert [one for one in everyone if one.conn is each.conn] == [each]
        if isinstance(each.error, PoolTimeout):
            assert self.clock() >= each.deadline
        elif isinstance(each.error, PoolClosed):
            assert self.pool.closed
        elif isinstance(each.error, TooManyRequests):
            assert self.pool.max_waiting

    @rule(rounds=st.integers(1, 4))
    def loop_goes_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.loop.step()
        for each in self.tasks:
            self.look_at_task(each)

    @rule(n=st.integers(0, 11), also_runs=st.booleans())
    def task_is_cancelled(self, n: int, also_runs: bool) -> None:
        each = self.one_of(n, lambda one: one.is_asking)
        if each is not None and each.task is not None:
            each.task.cancel()
            if also_runs:
                self.loop.step()

    @rule(n=st.integers(0, 11), how=st.sampled_from(["", "", "", *HOW]))
    def task_gives_back(self, n: int, how: str) -> None:
        each = self.one_of(n, lambda one: one.conn is not None)
        if each is None:
            return
        conn, each.conn = each.conn, None
        if conn.pgconn.is_alive:
            if how == "mess up":
                conn.pgconn.transaction_status = 1
            elif how == "change":
                inside.change_session(conn)
            elif how in ("execute", "fail"):
                getattr(conn, how)()
        if how == "drop":
            del conn
            gc.collect(0)
        elif how == "end":  # while somebody still knows the connection
            each.may_end.set_result(None)
            self.loop.step()
            self.loop.step()
            return
        else:
            self.loop.call_soon(self.pool.take_back, conn)
            del conn
            self.loop.step()
        each.may_end.cancel()
        self.loop.step()

    # -- what always holds ----------------------------------------------------------------

    def loans_are_held_by_those_who_borrowed(self) -> None:
        everyone = [*self.borrowers, *self.tasks]
        held = {inside.slot_of(one.conn) for one in everyone if one.conn is not None}
        on_loan = inside.lent(self.pool)
        assert held <= on_loan
        self.aside = [each for each in self.aside if not each.ended]
        # What a task asks for may be in the hand of who checks it, or the answer on its way.
        asking = sum(one.is_asking for one in self.tasks)
        assert len(on_loan - held - inside.given_up(self.pool)) <= len(self.aside) + asking

    def the_first_come_are_the_first_served(self) -> None:
        queue = self.in_line()
        threads = {b.actor.waiter: b.arrival for b in self.borrowers if b.is_waiting}
        numbers = {f"task {each.name}": int(each.name) for each in self.tasks if each.is_asking}
        arrivals = [numbers[one.task_name] if one.task_name else threads[one] for one in queue]
        assert arrivals == sorted(arrivals)
        assert {b.actor.waiter for b in self.borrowers if b.is_waiting and not b.is_served} == {
            one for one in queue if not one.task_name
        }
        assert not (queue and inside.idle(self.pool) and inside.serves(self.pool))

    def the_numbers_are_what_is(self) -> None:
        seen = self.pool.snapshot()
        assert seen["size"] == seen["idle"] + seen["in_use"] + seen["opening"] + seen["closing"]
        assert seen["stats"]["requests_num"] == self.asked

    # -- in the end -----------------------------------------------------------------------

    def is_busy(self) -> bool:
        return super().is_busy() or any(one.is_asking or one.conn for one in self.tasks)

    def settle_down(self) -> None:
        for _ in range(3):
            self.loop.step()
        while any(one.conn is not None for one in self.tasks):
            self.task_gives_back(0, "")
        super().settle_down()
        for borrower in self.borrowers:
            while borrower.actor.place == "closing":  # what came back to a closed pool
                borrower.actor.go()
        self.loop.step()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            tasks = [one.task for one in self.tasks if one.task is not None]
            for task in tasks:
                task.cancel()
            for _ in range(5):
                self.loop.step()
            for task in tasks:
                assert task.done()
                if not task.cancelled():
                    assert task.exception() is None
            self.loop.is_over = True
            self.loop.close()


@pytest.mark.stress
class TestModel(TaskMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=300,
        stateful_step_count=80,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
