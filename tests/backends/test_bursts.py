"""Statements in quick succession keep their connection while others wait, and not for long."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, close_old_connections, connections, transaction

from django_connpool import ConnectionPool, borrowing, hold, pinned, release, scope, scopes
from tests import inside
from tests.cluster import Server
from tests.databases import (
    DEADLINE,
    Databases,
    connected,
    in_hand,
    in_thread,
    in_threads,
    on_loan,
    pid,
    value,
)
from tests.testproject.processes import wait_until


class Waiting:
    """A thread that stands in line for a connection, and gives it back at once."""

    def __init__(self, wrapper: Any) -> None:
        self._alias = wrapper.alias
        self._pool = wrapper.pool
        self.pid = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self._pool.is_awaited or self.pid, "it stands in line")

    def _run(self) -> None:
        with self._pool.connection(timeout=DEADLINE) as conn:
            self.pid = conn.info.backend_pid

    def served(self) -> int:
        self._thread.join(DEADLINE)
        assert self.pid, "it was never served"
        return self.pid


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set aside stays there: nobody comes to take it."""
    inside.tune(monkeypatch, burst_pause=3600.0, burst_trust=3600.0)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no loan has lasted too long for a burst."""
    inside.tune(monkeypatch, burst_loan=3600.0)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The maintenance thread does not look: only the test calls `tick`."""
    inside.tune(monkeypatch, burst_look=3600.0)
    inside.forget_bursts()
    yield
    inside.forget_bursts()


@pytest.fixture
def single(databases: Databases) -> Iterator[Any]:
    wrapper = databases.add(pool={"max_size": 1, "release": "transaction", "timeout": DEADLINE})
    yield wrapper
    inside.bursts().collect(float("inf"))


@contextmanager
def a_burst(wrapper: Any) -> Iterator[Waiting]:
    """Some work in the middle of a burst: its connection is set aside, and somebody waits."""
    with scope("a burst"):
        inside.hasten(wrapper, 1)
        with transaction.atomic(using=wrapper.alias):
            pid(wrapper)
            waiting = Waiting(wrapper)
        assert in_hand(wrapper) is None
        assert inside.aside(wrapper) is not None
        if inside.tuning("burst_pause") > 1:  # nobody may have taken it already
            assert inside.aside(wrapper)
            assert waiting.pid == 0
        yield waiting


@pytest.mark.usefixtures("patient")
def test_a_burst_keeps_its_connection_until_the_work_ends(single: Any) -> None:
    with a_burst(single) as waiting:
        assert on_loan(single) == 1
        assert single.pool.snapshot()["loans"][0]["pinned"] == "a burst of statements"
        first = inside.aside(single)[0]
        with single.cursor() as cursor:
            assert in_hand(single) is first
            assert single.pool.snapshot()["loans"][0]["pinned"] is None
            cursor.execute("SELECT generate_series(1, 3)")
            assert in_hand(single) is None
            assert cursor.fetchall() == [(1,), (2,), (3,)]
            cursor.execute("SELECT 4")
            assert cursor.fetchone() == (4,)
        with transaction.atomic(using=single.alias):
            assert in_hand(single) is first
        assert inside.aside(single) == [first]
        assert waiting.pid == 0
    assert waiting.served()
    assert inside.aside(single) is None
    assert single.pool.get_stats()["connections_num"] == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "end",
    [
        lambda wrapper: release(wrapper.alias),
        lambda wrapper: wrapper.close(),
        lambda wrapper: wrapper.close_pool(),
        lambda wrapper: wrapper.inc_thread_sharing(),
        lambda wrapper: wrapper.ensure_connection(),
        lambda wrapper: close_old_connections(),
    ],
    ids=["release", "close", "close_pool", "inc_thread_sharing", "ensure_connection", "request"],
)
def test_a_burst_ends_at_once_with(single: Any, end: Callable[[Any], None]) -> None:
    with a_burst(single) as waiting:
        end(single)
        waiting.served()
        assert inside.aside(single) is None
    single.close()


@pytest.mark.usefixtures("patient")
def test_the_end_of_the_work_ends_the_bursts_of_other_threads(single: Any) -> None:
    over, waiting = threading.Event(), []

    def part() -> None:
        own = connections[single.alias]
        inside.hasten(own, 1)
        with transaction.atomic(using=single.alias):
            pid(own)
            waiting.append(Waiting(own))
        over.wait(DEADLINE)

    with scope("in two threads"):
        thread = threading.Thread(target=copy_context().run, args=(part,))
        thread.start()
        wait_until(lambda: inside.bursts().aside, "it is set aside")
        assert waiting[0].pid == 0
    assert waiting[0].served()
    over.set()
    thread.join()


def test_a_thread_that_ends_in_a_burst_loses_no_connection(
    single: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def part() -> Waiting:
        own = connections[single.alias]
        inside.hasten(own, 1)
        with transaction.atomic(using=single.alias):
            pid(own)
            return Waiting(own)

    with scope("in two threads"):
        waiting = in_thread(partial(copy_context().run, part))
        gc.collect()
        assert waiting.served() == pid(single)
    assert not caplog.messages
    assert single.pool.get_stats()["loans_reclaimed"] == 0


@pytest.mark.usefixtures("patient")
def test_an_error_in_a_burst_is_over_with_the_next_statement(single: Any) -> None:
    with a_burst(single) as waiting:
        (first,) = inside.aside(single)
        with pytest.raises(DatabaseError):
            value(single, "SELECT 1 / 0")
        assert inside.aside(single) == [first]
        with pytest.raises(DatabaseError):
            value(single, "SELECT nothing")
        assert single.errors_occurred
        value(single, "SELECT 1")
        assert not single.errors_occurred
        assert inside.aside(single) == [first]
        del first
    waiting.served()


@pytest.mark.usefixtures("patient")
def test_an_event_loop_is_refused_in_a_burst_as_well(single: Any) -> None:
    async def main() -> None:
        with pytest.raises(SynchronousOnlyOperation):
            single.set_autocommit(False)

    with a_burst(single) as waiting:
        asyncio.run(main())
        assert inside.aside(single)
    waiting.served()


@pytest.mark.usefixtures("patient")
def test_where_an_event_loop_is_allowed_a_statement_does_not_wait_for_its_own_burst(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def main() -> int:
        return pid(single)

    with a_burst(single) as waiting:
        assert asyncio.run(main()) == waiting.served()


def test_nobody_comes_and_a_burst_that_does_not_go_on_ends_all_the_same(single: Any) -> None:
    with a_burst(single) as waiting:
        assert waiting.served()
        assert inside.aside(single) == []
        assert pid(single)
        assert min(inside.haste(single)) < 0
        assert inside.aside(single) is None
    wait_until(lambda: not inside.knows_bursts(), "nobody looks any more")
    assert not inside.bursts().aside


@pytest.mark.usefixtures("unwatched")
def test_who_comes_to_borrow_takes_what_was_set_aside_for_too_long(single: Any) -> None:
    with a_burst(single) as waiting:
        while not waiting.pid:
            inside.bursts().collect(time.monotonic())
        assert in_thread(lambda: pid(connections[single.alias])) == waiting.served()
        assert pid(single)


@pytest.mark.usefixtures("patient", "unwatched")
def test_what_was_just_set_aside_is_left_alone(single: Any) -> None:
    with a_burst(single) as waiting:
        inside.bursts().collect(time.monotonic())
        inside.burst_tick()
        assert inside.aside(single)
        assert waiting.pid == 0


def test_a_loan_is_not_prolonged_for_ever(single: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.tune(monkeypatch, burst_loan=0.0)
    with scope("a burst"):
        inside.hasten(single)
        with transaction.atomic(using=single.alias):
            pid(single)
            waiting = Waiting(single)
        assert inside.aside(single) is None
        assert waiting.served()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("why", ["not in haste", "no work", "nobody waits"])
def test_otherwise_every_statement_gives_back(single: Any, why: str) -> None:
    inside.hasten(single, 0 if why == "not in haste" else inside.loss())

    def statement() -> None:
        with transaction.atomic(using=single.alias):
            pid(single)
            waiting = None if why == "nobody waits" else Waiting(single)
        assert inside.aside(single) is None
        if waiting is not None:
            assert waiting.served()

    if why == "no work":
        statement()
    else:
        with scope("work"):
            statement()
    assert on_loan(single) == 0


def test_haste_is_learned_for_each_pause_of_the_work(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1.0]
    inside.burst_clock_by(monkeypatch, lambda: now[0])
    inside.tune(monkeypatch, burst_pause=float("inf"))

    def work(*pauses: float) -> list[bool]:
        """Statements while somebody waits; whether each was followed by a burst."""
        aside = []
        with scope("work"):
            for pause in pauses:
                with transaction.atomic(using=single.alias):
                    pid(single)
                    waiting = Waiting(single)
                aside.append(bool(inside.aside(single)))
                if inside.aside(single):  # somebody takes it
                    inside.give_back(inside.popped(inside.aside(single)))
                waiting.served()
                now[0] += pause
        return aside

    short, long = 0.0001, 1.0
    assert work(long, short, short) == [False, False, False]
    assert inside.haste(single)[1:5] == [-inside.loss(), 1, 0, 0]
    assert work(long, short, short) == [False, True, False]
    assert inside.haste(single)[1:5] == [-inside.loss(), 2, 0, 0]
    # What was given back while nobody waited says nothing.
    with scope("work"):
        for _ in range(4):
            pid(single)
            now[0] += long
    assert inside.haste(single)[1:5] == [-inside.loss(), 2, 0, 0]
    # And what is not so any more is learned anew.
    inside.haste(single)[1:3] = [-1, 0]
    for _ in range(2):
        assert work(short, short) == [False, False]
    assert work(short, short) == [True, False]
    # Nor is it worth anything when the work ends there.
    assert inside.haste(single)[1] == 2
    assert work(short) == [True]
    assert inside.haste(single)[1] == 1
    assert work(short) == [True]
    for _ in range(2):
        assert work(short) == [False]
        assert inside.haste(single)[1] == 0


@pytest.mark.usefixtures("patient")
def test_what_has_died_meanwhile_is_replaced(
    single: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_burst(single) as waiting:
        (conn,) = inside.aside(single)
        backend = conn.info.backend_pid
        del conn
        cluster.execute(f"SELECT pg_terminate_backend({backend})")
        wait_until(lambda: connected(cluster, single) == 0, "it is gone")
        inside.tune(monkeypatch, burst_trust=0.0)  # that was no moment
        assert pid(single) != backend
    # Not before: who met the dead connection first stands in line anew, and may come second.
    assert waiting.served() != backend


@pytest.mark.usefixtures("patient")
def test_after_a_moment_it_is_not_asked_whether_it_is_alive(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    inside.asking_whether_alive_by(monkeypatch, lambda slot: asked.append(slot) or True)
    with a_burst(single) as waiting:
        pid(single)
        assert asked == []
        assert inside.aside(single)
        inside.tune(monkeypatch, burst_trust=0.0)
        pid(single)
        assert len(asked) == 1
    waiting.served()


@pytest.mark.usefixtures("patient")
def test_state_stays_with_its_owner_and_goes_nowhere_else(single: Any) -> None:
    with a_burst(single) as waiting:
        value(single, "SELECT set_config('app.tenant', '42', false)")
        assert in_hand(single) is not None
        assert value(single, "SHOW app.tenant") == "42"
    waiting.served()
    assert value(single, "SELECT current_setting('app.tenant', true)") in (None, "")


@pytest.mark.usefixtures("patient")
def test_modes_and_pins_go_on_with_what_was_set_aside(single: Any) -> None:
    with a_burst(single) as waiting:
        (first,) = inside.aside(single)
        with hold("request", single.alias):
            pid(single)
            assert in_hand(single) is first
        assert inside.aside(single) == [first]
        with pinned(single.alias):
            pid(single)
            assert in_hand(single) is first
        assert inside.aside(single) == [first]
        del first
        assert waiting.pid == 0
    waiting.served()


@pytest.mark.usefixtures("patient")
def test_a_scope_inside_begins_without_what_was_set_aside(single: Any) -> None:
    with a_burst(single) as waiting:
        with scope("inside"):
            assert waiting.served()
            assert pid(single)
        assert pid(single)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.usefixtures("patient")
def test_a_child_has_nothing_set_aside(single: Any) -> None:
    with a_burst(single) as waiting:
        (conn,) = inside.aside(single)
        backend = conn.info.backend_pid
        del conn
        child = os.fork()
        if not child:
            status = 1
            try:
                assert not inside.bursts().aside
                assert inside.aside(single) is None
                assert pid(single) != backend
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pid(single) == backend
    assert waiting.served() == backend


class Once(deque[Any]):
    """A deque in which something else happens once, when it is looked at or appended to."""

    asked: Callable[[], None] | None = None
    appended: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        truth = len(self) > 0
        once, self.asked = self.asked, None
        if once is not None:
            once()
        return truth

    def append(self, item: Any) -> None:
        super().append(item)
        once, self.appended = self.appended, None
        if once is not None:
            once()


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """It seems that somebody always waits."""
    monkeypatch.setattr(ConnectionPool, "is_awaited", True)


def a_statement_of_a_signal_handler(wrapper: Any) -> Callable[[], None]:
    return lambda: value(wrapper, "SELECT 2")


def what_the_collector_ends(wrapper: Any) -> Callable[[], None]:
    def rows() -> Iterator[Any]:
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            yield cursor

    cycle: list[Any] = [rows()]
    next(cycle[0])
    cycle.append(cycle)
    return lambda: gc.collect() and None


@pytest.mark.usefixtures("patient", "awaited")
@pytest.mark.parametrize("sign", [1, -1], ids=["aside", "back"])
@pytest.mark.parametrize("at_the_end", [False, True], ids=["begins", "ends"])
@pytest.mark.parametrize("handler", [a_statement_of_a_signal_handler, what_the_collector_ends])
def test_who_comes_by_between_two_instructions_pauses_in_the_place_of_the_other(
    single: Any, monkeypatch: pytest.MonkeyPatch, handler: Any, at_the_end: bool, sign: int
) -> None:
    real, todo = time.monotonic, []

    def clock() -> float:
        while todo and at_the_end == (in_hand(single) is not None):
            todo.pop()()
        return real()

    with scope("work"):
        inside.hasten(single, sign * inside.loss())
        value(single, "SELECT 1")
        handle = handler(single)
        inside.burst_clock_by(monkeypatch, clock)
        todo.append(handle)
        value(single, "SELECT 1")
        assert not todo
        assert in_hand(single) is None
        with_one = [aside for _, aside in inside.bursts().aside if aside]
        assert len(with_one) == (1 if sign > 0 else 0)
        assert on_loan(single) == len(with_one)
        assert pid(single)
    assert on_loan(single) == 0


@pytest.mark.usefixtures("patient", "awaited")
def test_what_others_have_borrowed_meanwhile_is_left_to_them(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, borrowed = time.monotonic, []

    def clock() -> float:
        if not borrowed and in_hand(single) is not None:  # at the end of a statement
            borrowed.append(None)
            value(single, "SELECT 2")  # a signal handler's; gives back
            borrowed[0] = single.pool.getconn()  # and somebody else borrows
        return real()

    with scope("work"):
        value(single, "SELECT 1")
        inside.burst_clock_by(monkeypatch, clock)
        value(single, "SELECT 1")
    assert borrowed[0]._pool is single.pool
    assert on_loan(single) == 1
    single.pool.putconn(borrowed[0])


@pytest.mark.usefixtures("patient", "awaited")
def test_a_signal_handler_in_the_middle_of_setting_aside_goes_on(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.bursts(), "aside", once := Once())
    with scope("work"):
        inside.hasten(single)
        backend = pid(single)
        found = []
        once.appended = lambda: found.append(pid(single))
        assert pid(single) == backend
        assert found == [backend]
        assert pid(single) == backend
    assert on_loan(single) == 0


@pytest.mark.usefixtures("patient")
def test_the_work_may_end_while_it_is_about_to_go_on(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [single.stop_resuming]

    def running_loop() -> None:
        while ends:
            in_thread(ends.pop())

    with a_burst(single) as waiting:
        inside.looking_for_a_loop_by(monkeypatch, running_loop)
        assert pid(single)
        waiting.served()
    assert on_loan(single) == 0


@pytest.mark.usefixtures("patient")
def test_an_error_of_a_signal_handler_keeps_nothing(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [SystemExit]

    def alive(slot: Any) -> bool:
        while errors:
            raise errors.pop()
        return inside.whether_alive(slot)

    with a_burst(single) as waiting:
        inside.asking_whether_alive_by(monkeypatch, alive)
        inside.tune(monkeypatch, burst_trust=0.0)  # or nobody would ask
        try:
            pid(single)
        except SystemExit:
            waiting.served()  # while the error is at hand, with all that its frames hold
        else:
            pytest.fail("there was no error")
    assert single.pool.get_stats()["loans_reclaimed"] == 0


@pytest.mark.usefixtures("patient", "awaited")
def test_what_is_taken_up_after_the_end_of_the_work_is_recalled(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[Any] = []
    inside.recall_soon_by(monkeypatch, recalled.append)
    with scope("work"):
        inside.hasten(single)
        pid(single)
        work = scopes.current.get()
        assert work is not None
        work.ended = True
        pid(single)
    assert recalled == [single]
    assert on_loan(single) == 0


@pytest.mark.usefixtures("patient", "awaited")
def test_what_is_taken_up_is_watched_for_max_hold_idle(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": "transaction", "max_hold_idle": 60})
    with scope("work"):
        inside.hasten(wrapper)
        pid(wrapper)
        inside.watch_nobody()
        pid(wrapper)
        assert inside.is_watched(wrapper)


@pytest.mark.usefixtures("patient", "awaited")
def test_a_database_that_nobody_may_use_is_not_used_by_what_is_aside(single: Any) -> None:
    with scope("work"):
        inside.hasten(single)
        pid(single)
        assert on_loan(single) == 1
        inside.take_back(single)
        assert on_loan(single) == 0


@pytest.mark.usefixtures("awaited")
def test_the_maintenance_thread_cleans_no_session_itself(databases: Databases) -> None:
    threads: list[str] = []
    wrapper = databases.add(
        pool={
            "max_size": 1,
            "release": "transaction",
            "reset": lambda conn: threads.append(threading.current_thread().name),
        }
    )
    with scope("work"):
        inside.hasten(wrapper)
        pid(wrapper)
        threads.clear()
        wait_until(lambda: threads, "it is given back")
    assert threads[0] == "django-connpool-recall"


@pytest.mark.usefixtures("patient", "awaited")
def test_the_event_loop_gives_nothing_back_itself(databases: Databases) -> None:
    threads: list[int] = []
    wrapper = databases.add(
        "in_a_loop",  # whose thread keeps its own wrapper
        pool={
            "max_size": 1,
            "release": "transaction",
            "reset": lambda conn: threads.append(threading.get_ident()),
        },
    )

    def statement() -> Any:
        own = connections[wrapper.alias]
        inside.hasten(own)
        pid(own)
        assert inside.aside(own)
        return own

    async def main() -> None:
        async with scope("work"):
            own = await sync_to_async(statement)()
            assert not threads
        assert inside.aside(own) is None
        assert threads
        assert threading.get_ident() not in threads

    asyncio.run(main())
    assert on_loan(wrapper) == 0


@pytest.mark.usefixtures("patient", "awaited")
def test_between_two_parts_of_a_stream_nothing_is_aside(single: Any) -> None:
    def body() -> Iterator[bytes]:
        inside.hasten(single)
        for _ in range(2):
            pid(single)
            assert inside.aside(single)
            yield b"part"

    for _ in inside.parts_of(body(), "stream"):
        assert on_loan(single) == 0
    assert on_loan(single) == 0


@pytest.mark.usefixtures("patient", "awaited")
def test_between_two_parts_of_an_async_stream_nothing_is_aside(databases: Databases) -> None:
    wrapper = databases.add(
        "in_another_loop", pool={"max_size": 1, "release": "transaction", "timeout": DEADLINE}
    )

    def statement() -> None:
        own = connections[wrapper.alias]
        inside.hasten(own)
        pid(own)
        assert inside.aside(own)

    async def main() -> None:
        async with scope("work"):
            work = scopes.current.get()
            assert work is not None
            await sync_to_async(statement)()
            assert on_loan(wrapper) == 1
            await borrowing.release_between_in_its_thread(work)
            assert on_loan(wrapper) == 0

    asyncio.run(main())


@pytest.mark.usefixtures("patient", "awaited", "unwatched")
def test_who_empties_it_while_the_maintenance_thread_looks_does_not_end_the_watch(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.bursts(), "aside", once := Once())
    with scope("work"):
        inside.hasten(single)
        pid(single)
        once.asked = once.clear
        inside.burst_tick()
        inside.burst_tick()
        assert not inside.bursts().is_watched
        pid(single)
        assert inside.bursts().is_watched
        assert inside.is_burst_due()


@pytest.mark.usefixtures("patient", "awaited", "unwatched")
def test_who_relies_on_the_watch_as_it_ends_is_watched(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [lambda: pid(single)]

    def dismissed(dismiss: Callable[[], None]) -> None:
        while late:
            late.pop()()
        dismiss()

    with scope("work"):
        inside.hasten(single)
        pid(single)
        inside.bursts().aside.clear()
        inside.dismissing_by(monkeypatch, dismissed)
        inside.burst_tick()
        assert inside.bursts().aside
        assert inside.bursts().is_watched
        assert inside.is_burst_due()


def test_two_who_collect_lose_nothing_that_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    old, young = (0.0, [None]), (float("inf"), [None])
    monkeypatch.setattr(inside.bursts(), "aside", deque([old, young]))
    # Another thread is faster.
    inside.popping_by(monkeypatch, lambda aside: inside.bursts().aside.remove(old) or [])

    inside.bursts().collect(10.0)
    assert list(inside.bursts().aside) == [young]


@pytest.mark.usefixtures("patient", "awaited")
def test_an_error_of_a_signal_handler_before_giving_back_keeps_nothing(single: Any) -> None:
    with scope("work"):
        inside.hasten(single, -inside.loss())
        try:
            with inside.handing_back_by(single, side_effect=SystemExit):
                pid(single)
        except SystemExit:
            assert on_loan(single) == 0
        else:
            pytest.fail("there was no error")


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.stress
@pytest.mark.usefixtures("switching_often")
def test_owners_and_takers_never_use_a_connection_together(
    databases: Databases, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truth: the answers, the server's count of connections, and the pool's of loans."""
    size, threads, pieces = 2, 12, 60
    spare = databases.add(pool={"max_size": size, "release": "transaction", "timeout": DEADLINE})
    inside.tune(monkeypatch, burst_pause=0.0003, burst_look=0.002)
    taken: list[int] = []

    def counted(connections: list[Any]) -> None:
        taken.append(len(connections))
        inside.give_back(connections)

    inside.giving_back_late_by(monkeypatch, counted)
    went_on: list[bool] = []
    inside.noting_who_goes_on(monkeypatch, went_on.append)

    def work(number: int) -> None:
        chance = random.Random(number)
        own = connections[spare.alias]
        for piece in range(pieces):
            with scope(f"{number}, {piece}"):
                inside.hasten(own)
                for _ in range(chance.randrange(1, 6)):
                    mark = chance.randrange(10**6)
                    if chance.random() < 0.3:
                        with transaction.atomic(using=spare.alias):
                            assert value(own, "SELECT %s", [mark]) == mark
                            backend = pid(own)
                            assert pid(own) == backend
                    else:
                        assert value(own, "SELECT %s", [mark]) == mark
                    if chance.random() < 0.2:
                        time.sleep(chance.random() / 500)
            assert in_hand(own) is None

    done = threading.Event()
    most = 0

    def count() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, connected(cluster, spare))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        in_threads([lambda n=n: work(n) for n in range(threads)], 90)  # type: ignore[misc]
    finally:
        done.set()
        counting.join()
    assert on_loan(spare) == 0
    assert most <= size
    assert sum(taken) > 5
    assert sum(went_on) > 5
    stats = spare.pool.get_stats()
    assert stats["loans_reclaimed"] == stats["returns_bad"] == 0
    assert stats["connections_num"] == size
