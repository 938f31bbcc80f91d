"""Connections that come back from threads which live on without using them."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from django.db import InterfaceError, connections, transaction

from tests import inside
from tests.cluster import Server
from tests.databases import (
    DEADLINE,
    Databases,
    connected,
    in_thread,
    in_threads,
    on_loan,
    pid,
    value,
)
from tests.testproject.processes import wait_until

IDLE = 0.1  # seconds


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 1, "timeout": DEADLINE, "max_hold_idle": IDLE})


@pytest.fixture
def calm(databases: Databases) -> Any:
    """As `spare`, where the maintenance thread does not come by of its own accord."""
    return databases.add(pool={"max_size": 1, "timeout": DEADLINE})


class Lingering:
    """A thread that lives on between the pieces of work it is given."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)

    def does(self, work: Callable[..., Any], *args: Any) -> Any:
        return self._executor.submit(work, *args).result(DEADLINE)

    def ends(self) -> None:
        self._executor.shutdown()


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    thread = Lingering()
    yield thread
    thread.does(connections.close_all)
    thread.ends()


def mine() -> int:
    return pid(connections["spare"])


def recalled(wrapper: Any) -> bool:
    return on_loan(wrapper) == 0


def looked_at() -> None:
    """Have the maintenance thread look often enough for whatever it may take."""
    looks: list[float] = []
    with inside.recall_ticks(lambda: looks.append(time.monotonic())):
        wait_until(lambda: len(looks) > 2 and looks[-1] - looks[0] > 3 * IDLE, "looks", DEADLINE)


def test_an_idle_thread_gives_back_and_its_next_query_borrows_again(
    spare: Any, lingering: Lingering
) -> None:
    first = lingering.does(mine)
    wait_until(lambda: recalled(spare), "the connection is given back", DEADLINE)

    assert in_thread(lambda: _closing(mine)) == first
    assert lingering.does(mine) == first
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


def _closing(work: Callable[[], Any]) -> Any:
    try:
        return work()
    finally:
        connections.close_all()


def test_who_waits_gets_the_connection_of_an_idle_thread(spare: Any, lingering: Lingering) -> None:
    first = lingering.does(mine)

    assert pid(spare) == first


def test_without_the_option_an_idle_thread_keeps_its_connection(
    databases: Databases, lingering: Lingering
) -> None:
    plain = databases.add(pool={"max_size": 2})
    other = databases.add("other_spare", pool={"max_hold_idle": IDLE})
    lingering.does(mine)
    lingering.does(lambda: pid(connections["other_spare"]))
    wait_until(lambda: recalled(other), "the other connection is given back", DEADLINE)

    assert on_loan(plain) == 1


def in_atomic() -> Iterator[None]:
    with transaction.atomic(using="spare"):
        mine()
        yield


def in_atomic_before_its_first_query() -> Iterator[None]:
    with transaction.atomic(using="spare"):
        yield


def without_autocommit() -> Iterator[None]:
    connections["spare"].set_autocommit(False)
    yield
    connections["spare"].set_autocommit(True)


def with_a_cursor() -> Iterator[None]:
    with connections["spare"].cursor() as cursor:
        cursor.execute("SELECT 1")
        yield


def with_a_server_side_cursor() -> Iterator[None]:
    with connections["spare"].chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 1000)")
        assert cursor.fetchone() == (1,)
        yield
        assert cursor.fetchone() == (2,)


def with_the_raw_connection() -> Iterator[None]:
    mine()
    raw = connections["spare"].connection
    yield
    assert raw.execute("SELECT 1").fetchone() == (1,)


def with_a_changed_connection() -> Iterator[None]:
    mine()
    connections["spare"].connection.read_only = True
    yield
    connections["spare"].connection.read_only = None


@pytest.mark.parametrize(
    "state",
    [
        in_atomic,
        in_atomic_before_its_first_query,
        without_autocommit,
        with_a_cursor,
        with_a_server_side_cursor,
        with_the_raw_connection,
        with_a_changed_connection,
    ],
)
def test_what_is_in_use_is_never_taken(
    spare: Any, lingering: Lingering, state: Callable[[], Iterator[None]]
) -> None:
    block = contextmanager(state)()
    lingering.does(block.__enter__)
    looked_at()
    assert on_loan(spare) == 1

    lingering.does(block.__exit__, None, None, None)
    del block
    wait_until(lambda: recalled(spare), "the connection is given back", DEADLINE)


def test_what_a_thread_has_set_stays_with_it(spare: Any, lingering: Lingering) -> None:
    lingering.does(lambda: connections["spare"].cursor().execute("SET work_mem = '7MB'"))
    looked_at()
    assert on_loan(spare) == 1
    assert lingering.does(lambda: value(connections["spare"], "SHOW work_mem")) == "7MB"


def test_a_thread_that_is_not_idle_for_so_long_keeps_its_connection(
    databases: Databases, lingering: Lingering
) -> None:
    spare = databases.add(pool={"max_size": 1, "max_hold_idle": 60})
    lingering.does(mine)
    (wrapper,) = [wrapper for wrapper in inside.users(spare) if wrapper is not spare]
    now = time.monotonic()
    inside.recall_idle(now, taken := [])
    inside.recall_idle(now + 59, taken)
    assert (on_loan(spare), inside.parked(wrapper) is not None, taken) == (1, True, [])

    # Used a moment before its time: it begins anew.
    assert lingering.does(mine)
    inside.recall_idle(now + 61, taken)
    assert not taken
    inside.recall_idle(now + 122, taken)
    assert len(taken) == 1
    spare.pool.putconn(taken.pop())


def test_closing_what_was_recalled_borrows_nothing(spare: Any, lingering: Lingering) -> None:
    lingering.does(mine)
    wait_until(lambda: recalled(spare), "the connection is given back", DEADLINE)
    before = spare.pool.get_stats()["requests_num"]
    lingering.does(lambda: connections["spare"].close())
    lingering.does(lambda: connections["spare"].close_if_unusable_or_obsolete())

    assert spare.pool.get_stats()["requests_num"] == before


def test_a_closed_cursor_in_a_variable_does_not_count_as_use(
    spare: Any, lingering: Lingering
) -> None:
    def loop() -> Iterator[Any]:
        with connections["spare"].cursor() as cursor:
            cursor.execute("SELECT now()")
            cursor.fetchone()
        cursor.close()
        yield cursor
        assert "closed" in repr(cursor.cursor)
        for use in (cursor.fetchone, lambda: cursor.execute("SELECT 1")):
            with pytest.raises(InterfaceError, match="the cursor is closed"):
                use()

    block = loop()
    lingering.does(next, block)
    wait_until(lambda: recalled(spare), "the connection is given back", DEADLINE)
    lingering.does(next, block, None)


@pytest.mark.parametrize("step", ["create_cursor", "set_autocommit", "close"])
def test_a_step_that_was_begun_with_a_connection_ends_with_another(
    calm: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken between the look whether there is one and its use, which nothing can rule out."""
    pid(calm)
    taken: list[Any] = []

    def take(*args: Any) -> None:
        monkeypatch.undo()
        assert inside.take(calm, taken)
        calm.pool.putconn(taken.pop())

    if step == "create_cursor":
        original = calm.create_cursor
        monkeypatch.setattr(calm, "create_cursor", lambda name=None: (take(), original(name))[1])
        assert value(calm, "SELECT 1") == 1
    elif step == "set_autocommit":
        original = calm._set_autocommit
        monkeypatch.setattr(calm, "_set_autocommit", lambda on: (take(), original(on))[1])
        with transaction.atomic(using="spare"):
            first = pid(calm)
            assert value(calm, "SELECT pg_current_xact_id()::text") == value(
                calm, "SELECT pg_current_xact_id()::text"
            )
            assert pid(calm) == first
    else:
        original = calm._close
        monkeypatch.setattr(calm, "_close", lambda: (take(), original())[1])
        calm.close()
        assert on_loan(calm) == 0
    calm.close()
    assert calm.pool.get_stats()["loans_reclaimed"] == 0


def test_an_owner_that_gives_back_while_it_is_looked_at_has_given_back(calm: Any) -> None:
    """The owner reads its connection, the look begins, the owner gives back, the look ends."""
    pid(calm)
    borrowed = calm.connection

    def interrupted(connection: Any) -> int:
        calm.connection = None
        return 99

    with pytest.MonkeyPatch.context() as patch, inside.recalling():
        inside.counting_by(patch, interrupted)
        inside.park(calm)
    assert calm.connection is None
    calm.connection = borrowed


def test_what_is_left_over_is_noted_also_while_it_is_being_parked(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(calm)
    ends: list[threading.Thread] = []

    def counted(connection: Any) -> int:
        ends.append(threading.Thread(target=inside.recall_soon, args=(calm,)))
        ends[0].start()
        ends[0].join(0.1)  # it has to wait, and is over at once if it does not
        return inside.count_at_rest()

    with inside.recalling():
        inside.counting_by(monkeypatch, counted)
        inside.park(calm, time.monotonic())
        monkeypatch.undo()
        assert inside.parked(calm) is not None
    ends[0].join(DEADLINE)
    wait_until(lambda: recalled(calm), "the connection is given back", DEADLINE)


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("on purpose")

    __hash__ = object.__hash__


def test_what_does_not_let_itself_be_compared_is_left_alone(calm: Any) -> None:
    """And keeps nobody from taking the others."""
    pid(calm)
    calm.connection.prepare_threshold = Incomparable()
    assert not inside.is_at_rest(calm)
    inside.park(calm, time.monotonic())
    assert inside.parked(calm) is None
    calm.connection.prepare_threshold = 5


def test_an_interrupt_while_loans_are_taken_back_loses_none(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(calm)
    interrupted = mock.Mock(end_burst=mock.Mock(side_effect=KeyboardInterrupt))
    inside.users_are(monkeypatch, calm, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        inside.take_back(calm)
    assert on_loan(calm) == 0
    assert calm.pool.get_stats()["loans_reclaimed"] == 0
    del caught  # whose frames know the connection


def test_what_was_taken_goes_back_whatever_happens(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(calm)

    def fails(now: float, taken: list[Any]) -> float:
        inside.take(calm, taken, now)
        raise RuntimeError("on purpose")

    inside.recall_idle_by(monkeypatch, fails)
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError))
    with pytest.raises(RuntimeError, match="on purpose"):
        inside.recall_tick()
    assert on_loan(calm) == 0
    assert calm.pool.get_stats()["loans_reclaimed"] == 0


def test_a_thread_that_ends_with_a_parked_connection_gives_it_back(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        mine()
        inside.look(connections["spare"], 60, time.monotonic(), [])
        assert inside.parked(connections["spare"]) is not None

    in_thread(work)
    gc.collect()
    wait_until(lambda: recalled(calm), "the slot comes back", DEADLINE)


def test_a_thread_that_ends_when_its_connection_was_just_taken_loses_nothing(
    calm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Any] = []

    def work() -> None:
        mine()
        inside.take(connections["spare"], taken, time.monotonic())

    in_thread(work)
    gc.collect()
    inside.tick(calm.pool)
    assert on_loan(calm) == len(taken) == 1
    inside.give_back(taken)
    assert on_loan(calm) == 0
    assert not caplog.messages
    assert calm.pool.get_stats()["loans_reclaimed"] == 0


def test_the_maintenance_thread_is_not_kept_by_what_is_over(
    spare: Any, lingering: Lingering
) -> None:
    lingering.does(mine)
    wait_until(lambda: recalled(spare), "the connection is given back", DEADLINE)
    wait_until(
        lambda: not inside.is_recall_due(),
        "nothing more to look at",
        DEADLINE,
    )


@pytest.mark.stress
@pytest.mark.timeout(120)
def test_recalling_at_every_instruction_harms_no_statement(
    databases: Databases, cluster: Server
) -> None:
    spare = databases.add(pool={"max_size": 3, "timeout": 60, "max_hold_idle": 3600})
    cluster.execute("CREATE TABLE recalled (n int)")
    spare.close()
    stop, recalls = threading.Event(), 0
    give_up = time.monotonic() + 60

    def hammer() -> None:
        nonlocal recalls
        while not stop.is_set():
            for wrapper in inside.users(spare):
                taken: list[Any] = []
                with inside.recalling():
                    for _ in range(2):  # it parks, it takes
                        if inside.in_hand(wrapper) is not None:
                            inside.look(wrapper, 0.0, time.monotonic(), taken)
                recalls += len(taken)
                inside.give_back(taken)

    def work(number: int) -> int:
        chance = random.Random(number)
        wrapper = connections["spare"]
        written = 0
        try:
            step = 0
            while step < 120 or (recalls < 200 and time.monotonic() < give_up):
                step += 1
                tag = number * 1_000_000 + step
                kind = chance.randrange(4)
                time.sleep(chance.choice((0, 0, 1e-5, 1e-4)))
                if kind == 0:
                    assert value(wrapper, "SELECT %s::int", [tag]) == tag
                elif kind == 1:
                    with wrapper.cursor() as cursor:
                        cursor.execute("SELECT %s::int, pg_backend_pid()", [tag])
                        answer, first = cursor.fetchone()
                        cursor.execute("SELECT %s::int, pg_backend_pid()", [tag])
                        assert cursor.fetchone() == (tag, first) and answer == tag
                elif kind == 2:
                    with transaction.atomic(using="spare"):
                        first = pid(wrapper)
                        value(wrapper, "INSERT INTO recalled VALUES (%s) RETURNING n", [tag])
                        assert pid(wrapper) == first
                        value(wrapper, "INSERT INTO recalled VALUES (%s) RETURNING n", [tag])
                    written += 2
                else:
                    with wrapper.chunked_cursor() as cursor:
                        cursor.execute("SELECT %s::int + generate_series(1, 300)", [tag])
                        assert cursor.fetchmany(3) == [(tag + n,) for n in (1, 2, 3)]
                        assert len(cursor.fetchall()) == 297
                    del cursor
        finally:
            wrapper.close()
        return written

    hammers = [threading.Thread(target=hammer) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in hammers:
            thread.start()
        written = in_threads([lambda n=n: work(n) for n in range(4)], 100)  # type: ignore[misc]
    finally:
        stop.set()
        for thread in hammers:
            thread.join()
        sys.setswitchinterval(interval)

    assert value(spare, "SELECT count(*) FROM recalled") == sum(written)
    assert value(spare, "SELECT count(*) FROM pg_cursors") == 0
    cluster.execute("DROP TABLE recalled")
    assert on_loan(spare) == 1
    assert connected(cluster, spare) <= 3
    assert spare.pool.get_stats()["loans_reclaimed"] == 0
    assert recalls >= 200
