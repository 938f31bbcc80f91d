"""Moments of borrowing and giving back that real threads seldom meet."""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from psycopg import OperationalError

from django_connpool import ConnectionPool, PoolClosed, PoolTimeout
from tests import inside
from tests.pool.real.helpers import LOGGER, counts, until, until_waiting

from .fake import FakeConnection, FakeServer, fake_pool, working_pool

DEADLINE = 30.0  # seconds
RLock: Any = type(threading.RLock())


@pytest.fixture
def nobody_comes_by() -> Iterator[None]:
    """The maintenance thread is not woken, so that what it would do is left to the borrowers."""
    with inside.maintenance_asleep():
        yield


def in_a_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def give_back_inside_the_lock(pool: ConnectionPool[Any], conn: Any) -> None:
    """As a finalizer or signal handler does that interrupted the pool itself."""
    with inside.lock(pool):
        pool.putconn(conn)


def test_a_loan_that_ended_inside_the_lock_is_not_taken_for_one_given_up(
    nobody_comes_by: None,
) -> None:
    with working_pool(FakeServer(), max_size=2) as pool:
        first, second = pool.getconn(), pool.getconn()
        give_back_inside_the_lock(pool, first)
        pool.putconn(second)
        pool.putconn(pool.getconn())
        inside.assert_all_idle(pool)
        assert {inside.conn_of(one) for one in inside.idle(pool)} == {first, second}


def test_a_timeout_can_be_explained_while_another_borrower_accepts() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.putconn(pool.getconn())
        slot = inside.handed_over(pool, looks=2)
        with pytest.raises(PoolTimeout, match="1 on loan"):
            pool.getconn(timeout=0)
        assert inside.is_accepted(slot)
        inside.discard(pool, slot)


def test_a_note_about_a_slot_may_be_read_while_its_next_borrower_accepts(
    nobody_comes_by: None,
) -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.putconn(pool.getconn())
        slot = inside.handed_over(pool, looks=1)
        inside.note_of_an_interrupt(pool, slot)
        inside.tick(pool)
        assert inside.is_accepted(slot) and not inside.has_leftovers(pool)
        inside.discard(pool, slot)


def test_a_loan_given_back_twice_does_not_end_the_next_one(nobody_comes_by: None) -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        give_back_inside_the_lock(pool, conn)
        with inside.looking_at_nothing(pool):  # it has not come to that yet
            in_a_thread(lambda: pool.putconn(conn))
            assert pool.getconn() is conn
        inside.tick(pool)
        assert inside.is_lent(conn)
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        pool.putconn(conn)


def test_who_finds_something_dead_without_waiting_is_one_request(nobody_comes_by: None) -> None:
    server = FakeServer()
    with working_pool(server, max_size=1) as pool:
        give_back_inside_the_lock(pool, pool.getconn())  # idle once the next borrower looks
        server.kill_all()
        pool.putconn(pool.getconn())
        assert pool.get_stats()["requests_num"] == 2


class Interrupt(BaseException):
    """What a signal handler raises."""


class Contended(RLock):
    """The lock of a pool: who waits for it is interrupted, once."""

    def __init__(self, interrupt: BaseException) -> None:
        self.interrupts = [interrupt]

    def acquire(self, *args: Any) -> Any:
        if self.interrupts:
            raise self.interrupts.pop()
        return super().acquire(*args)


def borrow(pool: ConnectionPool[Any]) -> Callable[[], Any]:
    pool.putconn(pool.getconn())
    return pool.getconn


def stand_in_line(pool: ConnectionPool[Any]) -> Callable[[], Any]:
    return pool.getconn


def give_back(pool: ConnectionPool[Any]) -> Callable[[], Any]:
    return partial(pool.putconn, pool.getconn())


@pytest.mark.parametrize("what", [borrow, stand_in_line, give_back])
def test_an_interrupt_of_who_waits_for_the_lock_is_raised_as_it_is(what: Any) -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        act = what(pool)
        interrupt, handled, reason = Interrupt(), LookupError(), LookupError()
        interrupt.__cause__ = reason
        inside.set_lock(pool, Contended(interrupt))
        with pytest.raises(Interrupt) as caught:
            try:
                raise handled
            except LookupError:
                act()
        assert caught.value is interrupt
        assert interrupt.__context__ is handled
        assert interrupt.__cause__ is reason
        names = [entry.name for entry in caught.traceback]
        assert len(names) == len(set(names)), "there is a line that only raises it again"
        assert not inside.is_locked(pool)
        pool.putconn(pool.getconn(DEADLINE))


@pytest.mark.parametrize("what", [borrow, stand_in_line, give_back])
def test_an_interrupt_of_who_waits_for_the_lock_keeps_nothing_alive(what: Any) -> None:
    class Mine:
        """Something of the borrower's own."""

    def be_interrupted() -> weakref.ref[Mine]:
        mine = Mine()
        inside.set_lock(pool, Contended(Interrupt()))
        with suppress(Interrupt):
            act()
        return weakref.ref(mine)

    with working_pool(FakeServer(), max_size=1) as pool:
        act = what(pool)
        gc.disable()
        try:
            assert be_interrupted()() is None
        finally:
            gc.enable()


def test_a_signal_while_somebody_is_refused_does_not_keep_the_lock() -> None:
    # All in one call, so that the interpreter looks for the signal when the error is under way.
    refuse = partial(sum, map(ctypes.CDLL(None)["raise"], [signal.SIGUSR1]), None)

    def handle(*_: object) -> None:
        raise Interrupt

    pool = fake_pool(FakeServer())
    pool.close()
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with (
            inside.asking_whether_open(refuse),
            pytest.raises(Interrupt),
        ):
            pool.getconn()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not inside.is_locked(pool)


def test_what_a_signal_handler_raises_is_not_taken_for_a_second_wake_up() -> None:
    def handle() -> None:
        raise RuntimeError("a signal")

    waiter = inside.waiter_woken_by(handle)
    with pytest.raises(RuntimeError, match="a signal"):
        inside.wake(waiter)


def test_a_wake_up_that_comes_late_is_not_for_who_stands_in_line_again() -> None:
    server = FakeServer()
    with working_pool(server, max_size=1) as pool:
        conn = pool.getconn()
        served: list[Any] = []
        borrower = threading.Thread(target=lambda: served.append(pool.getconn(DEADLINE)))
        borrower.start()
        until_waiting(pool, 1)
        (waiter,) = inside.waiters(pool)
        server.kill_all()
        server.state = "starting"
        with inside.waking_nobody():  # it has not come to that
            pool.putconn(conn)
        inside.wake(waiter)  # by somebody else, who reads a note about the slot
        until_waiting(pool, 1)  # for what it got was dead
        inside.wake(waiter)
        server.state = "up"
        borrower.join(DEADLINE)
        assert served, "it woke up to nothing"
        pool.putconn(served.pop())


def test_who_was_served_and_kept_in_line_by_an_interrupt_is_passed_over(
    nobody_comes_by: None,
) -> None:
    with working_pool(FakeServer(), max_size=2) as pool:
        first, second = pool.getconn(), pool.getconn()
        served: list[Any] = []
        borrower = threading.Thread(target=lambda: served.append(pool.getconn(DEADLINE / 3)))
        borrower.start()
        until_waiting(pool, 1)
        inside.stands_first(pool, inside.slot_of(first))
        pool.putconn(second)
        borrower.join(DEADLINE)
        assert served == [second]
        pool.putconn(first)
        pool.putconn(second)


def test_who_waits_does_not_wait_for_a_log_handler_that_stands_behind_him(
    nobody_comes_by: None,
) -> None:
    lines: list[str] = []

    class InTheDatabase(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(PoolClosed), pool.connection(DEADLINE / 3):
                lines.append(record.getMessage())

    handler = InTheDatabase()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        with working_pool(FakeServer(), max_size=1) as pool:
            pool.getconn()  # and nobody can give it back, which the next borrower finds out
            conn = pool.getconn(DEADLINE / 2)
            assert lines == []
            pool.putconn(conn)
            until(lambda: "never given back" in "".join(lines))
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)


def test_what_was_to_be_done_as_hiring_was_interrupted_is_done_all_the_same() -> None:
    def interrupted(thread: Any) -> bool:
        raise KeyboardInterrupt

    server = FakeServer()
    with working_pool(server, max_size=1) as pool:
        for what in ("opened", "closed"):
            with inside.hiring_by(pool, interrupted), pytest.raises(KeyboardInterrupt):
                if what == "opened":
                    pool.getconn(timeout=DEADLINE)
                else:
                    pool.drain()
            pool.putconn(pool.getconn(DEADLINE))
        until(lambda: len(server.connections) == 1)


class SignalledLock:
    """A pool's lock, with a signal that comes right after it was first released."""

    def __init__(self, lock: Any, handle: Callable[[], None]) -> None:
        self._handle: Callable[[], None] | None = handle
        self._is_owned, self.acquire, self._release = lock._is_owned, lock.acquire, lock.release

    def release(self) -> None:
        self._release()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_signal_handler_that_waits_does_not_hold_up_who_was_served_before() -> None:
    handled: list[bool] = []

    def borrow() -> None:
        pool.putconn(pool.getconn(DEADLINE))

    def handle() -> None:
        borrow()
        handled.append(True)

    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        borrower = threading.Thread(target=borrow)
        borrower.start()
        until_waiting(pool, 1)
        inside.set_lock(pool, SignalledLock(inside.lock(pool), handle))
        pool.putconn(conn)
        borrower.join(DEADLINE)
        assert handled and not borrower.is_alive()


def in_line_of_a_suspended(pool: ConnectionPool[Any]) -> tuple[threading.Thread, list[Any]]:
    """A borrower who waits in an outage, and what it is served."""
    with pytest.raises(OperationalError, match="refused"):
        pool.getconn()
    pool.suspend()
    served: list[Any] = []
    borrower = threading.Thread(target=lambda: served.append(pool.getconn(DEADLINE)))
    borrower.start()
    until_waiting(pool, 1)
    return borrower, served


def test_in_a_suspended_pool_nobody_is_refused_for_an_outage() -> None:
    server = FakeServer()
    server.state = "down"
    with working_pool(server, outage_patience=0.1) as pool:
        borrower, served = in_line_of_a_suspended(pool)
        server.state = "up"
        pool.resume()
        borrower.join(DEADLINE)
        assert served, "it was told what the server had said before"
        pool.putconn(served.pop())


class Slow(FakeServer):
    """Once told to, it takes its time to refuse one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.state = "down"
        self.holds = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def admit(self, backend: Any) -> None:
        if self.holds:
            self.holds = False
            self.reached.set()
            assert self.go_on.wait(DEADLINE)
            raise OperationalError("connection failed: Connection refused")
        super().admit(backend)


def test_an_attempt_of_before_a_pool_is_resumed_is_no_answer_to_who_waits() -> None:
    server = Slow()
    with working_pool(server, outage_patience=0.1) as pool:
        borrower, served = in_line_of_a_suspended(pool)
        server.holds = True
        pool.resume()
        assert server.reached.wait(DEADLINE)
        pool.suspend()
        server.state = "up"
        pool.resume()
        server.go_on.set()
        borrower.join(DEADLINE)
        assert served, "it was told what the server had said before"
        pool.putconn(served.pop())


class Stubborn(FakeConnection):
    def close(self) -> None:
        super().close()
        raise LookupError("the user's own close() fails")


def test_a_connection_that_fails_to_close_keeps_no_other_open() -> None:
    server = FakeServer()
    pool = fake_pool(server, max_size=3)
    pool.connection_class = Stubborn
    conns = [pool.getconn() for _ in range(3)]
    for conn in conns:
        pool.putconn(conn)
    pool.close()
    assert not server.connections
    assert pool.snapshot()["size"] == 0


def test_on_a_full_server_the_place_of_a_connection_being_closed_is_waited_for() -> None:
    server = FakeServer()
    server.places, server.lingers = 1, True
    with working_pool(server, max_uses=1, max_size=2) as pool:
        pool.putconn(pool.getconn())  # for the last time
        served: list[Any] = []
        borrower = threading.Thread(target=lambda: served.append(pool.getconn(DEADLINE)))
        borrower.start()
        until(lambda: server.attempts == 2 and not pool.snapshot()["opening"])  # refused
        assert borrower.is_alive()
        server.reap()
        borrower.join(DEADLINE)
        assert served, "it was told that the server is full"
        server.lingers = False
        pool.putconn(served.pop())


def test_on_a_full_server_who_cannot_have_that_place_is_told() -> None:
    server = FakeServer()
    server.places, server.lingers = 1, True
    with working_pool(server, max_uses=1, max_size=2, outage_patience=0.1) as pool:
        pool.putconn(pool.getconn())
        errors: list[BaseException] = []

        def borrow() -> None:
            try:
                pool.getconn(DEADLINE)
            except OperationalError as error:
                errors.append(error)

        borrower = threading.Thread(target=borrow)
        borrower.start()
        until(lambda: server.attempts == 2 and not pool.snapshot()["opening"])
        server.places = 0  # somebody else is faster
        server.reap()
        borrower.join(DEADLINE / 2)
        assert "too many clients" in str(errors.pop())


def test_where_connections_do_not_live_long_their_loans_are_counted_all_the_same() -> None:
    with working_pool(FakeServer(), min_size=2, max_uses=10) as pool:
        pool.wait(DEADLINE)
        for _ in range(500):
            pool.putconn(pool.getconn())
        until(lambda: counts(pool)[1:] == (0, 0))
        assert max(inside.uncounted(pool).values()) < 50, "they gather where nobody looks at them"
        assert pool.snapshot()["histograms"]["hold"]["count"] == 500


def test_an_error_that_is_remembered_keeps_no_loan_that_is_dropped() -> None:
    refused: list[Any] = []

    def check(conn: Any) -> None:
        if not refused:
            refused.append(conn)
            raise LookupError("not this one")

    with working_pool(FakeServer(), max_size=2, check=check) as pool:
        conn = pool.getconn()
        assert conn is not refused[0]
        del conn
        until(lambda: pool.get_stats()["loans_reclaimed"] == 1)


def test_a_loan_that_was_dropped_comes_back_although_the_note_of_it_is_lost(
    nobody_comes_by: None,
) -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        del conn
        inside.lose_notes(pool)
        inside.tick(pool)
        assert pool.get_stats()["loans_reclaimed"] == 1
        pool.putconn(pool.getconn(DEADLINE))


def test_what_a_pool_is_set_to_can_be_changed_as_it_goes() -> None:
    first, second = FakeServer(), FakeServer()
    with working_pool(first, max_size=1) as pool:
        pool.name, pool.timeout = "renamed", 0.01
        conn = pool.getconn(DEADLINE)
        with pytest.raises(PoolTimeout, match=r"pool 'renamed'.* within 0\.0\d s"):
            pool.getconn()
        pool.kwargs = {"server": second}
        pool.drain()
        pool.putconn(conn)
        pool.putconn(pool.getconn(DEADLINE))
        assert len(second.connections) == 1


def test_what_a_handler_asks_of_a_pool_that_it_has_closed_is_not_done() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        with inside.lock(pool):  # as a signal handler that interrupted the pool itself
            pool.close()
            pool.resume()
            pool.suspend()
        inside.tick(pool)
        assert pool.closed
        assert not inside.serves(pool) and not inside.is_suspended(pool)


def test_who_was_interrupted_on_the_way_out_is_closed_once() -> None:
    assert inside.retired_again() == 1
