"""What an interrupt leaves of an atomic block ends with the work that began it."""

from __future__ import annotations

import contextvars
import gc
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from time import monotonic
from types import FrameType
from typing import Any

import psycopg
import pytest
from django.core.signals import request_finished, request_started
from django.db import DatabaseError, InterfaceError, close_old_connections, connections, transaction
from django.http import HttpResponse
from django.test import RequestFactory

import django_connpool
from django_connpool import requests
from django_connpool.middleware import ConnectionPoolMiddleware
from tests import inside
from tests.databases import DEADLINE, Databases, on_loan
from tests.interrupter import Interrupter

DJANGOS = transaction.__file__
MODES = ["request", "transaction"]
HITS, MOST_UNITS = 400, 5000


class Stop(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class AtAnOpcode(Interrupter):
    """Strikes between any two instructions, also where CPython would not."""

    def __enter__(self) -> Interrupter:
        # Python 3.12 tells of them only if some frame wanted to know when tracing began.
        sys._getframe().f_trace_opcodes = True
        return super().__enter__()

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._concerns(frame):
            return None
        frame.f_trace_opcodes = True
        return super()._trace(frame, "line" if event == "opcode" else "", _)


def at_an_opcode_of_atomic(n: int, name: str) -> AtAnOpcode:
    def concerns(frame: FrameType) -> bool:
        return frame.f_code.co_filename == DJANGOS and frame.f_code.co_name == name

    return AtAnOpcode(n, Stop, concerns, lambda frame: False)


class Table:
    """A table that each unit of work writes a row into."""

    def __init__(self, wrapper: Any, name: str, looker: Any) -> None:
        self.wrapper = wrapper
        self.looker = looker
        self.name = name
        looker.execute(f"CREATE TABLE {name} (number integer)")

    def insert(self, number: int) -> None:
        with transaction.atomic(using=self.wrapper.alias), self.wrapper.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self.name} VALUES (%s)", [number])
        if not self.wrapper.settings_dict["AUTOCOMMIT"] and not self.wrapper.in_atomic_block:
            self.wrapper.commit()

    def insert_nested(self, number: int) -> None:
        with transaction.atomic(using=self.wrapper.alias):
            self.insert(number)

    def has(self, number: int) -> bool:
        """Whether it is committed, as a session of its own sees it."""
        query = f"SELECT count(*) FROM {self.name} WHERE number = %s"
        return self.looker.execute(query, [number]).fetchone() == (1,)


@pytest.fixture
def make_table(databases: Databases, dsn: str) -> Iterator[Callable[..., Table]]:
    with psycopg.connect(dsn, autocommit=True) as looker:
        made = []

        def make(release: str, **settings: Any) -> Table:
            pool = {"max_size": 1, "timeout": 20, "release": release}
            made.append(Table(databases.add(pool=pool, **settings), f"lost_{release}", looker))
            return made[-1]

        yield make
        for table in made:
            table.wrapper.in_atomic_block = False
            table.wrapper.close()
            looker.execute(f"DROP TABLE {table.name}")


def in_scope(work: Callable[[], Any]) -> None:
    with django_connpool.scope("job 17"):
        work()


@cache
def middleware() -> ConnectionPoolMiddleware:
    """Made once: it takes a lock of Django's, which an interrupt in there would leave taken."""

    def get_response(request: Any) -> HttpResponse:
        request.work()
        return HttpResponse()

    return ConnectionPoolMiddleware(get_response)


@pytest.fixture(autouse=True)
def with_and_without_middleware() -> None:
    middleware()
    requests.connect()


def in_request(work: Callable[[], Any]) -> None:
    request: Any = RequestFactory().get("/page/")
    request.work = work
    middleware()(request)


def in_request_without_middleware(work: Callable[[], Any]) -> None:
    environ = RequestFactory()._base_environ(PATH_INFO="/page/")
    request_started.send(sender=None, environ=environ)
    try:
        work()
    finally:
        request_finished.send(sender=None)


UNITS = {
    in_scope: "job 17",
    in_request: "GET /page/",
    in_request_without_middleware: "GET /page/",
}


@pytest.mark.stress
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["__enter__", "__exit__"])
@pytest.mark.parametrize("kind", ["insert", "insert_nested"])
def test_after_an_interrupt_at_any_opcode_of_a_block_the_next_work_commits(
    make_table: Callable[..., Table],
    caplog: pytest.LogCaptureFixture,
    unit: Callable[[Callable[[], Any]], None],
    name: str,
    kind: str,
    release: str,
    autocommit: bool,
) -> None:
    table = make_table(release, AUTOCOMMIT=autocommit)
    insert = getattr(table, kind)
    lost = 0
    for n in range(1, 1000):
        interrupt = at_an_opcode_of_atomic(n, name)
        caplog.clear()
        with suppress(Stop, DatabaseError, InterfaceError, IndexError), interrupt:
            unit(lambda n=n: insert(2 * n))
        if not interrupt.where:
            break
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) <= 1, interrupt.where
        for error in errors:
            lost += 1
            assert UNITS[unit] in error.getMessage()
            assert "INSERT" not in error.getMessage()
        assert not table.wrapper.in_atomic_block, interrupt.where
        assert on_loan(table.wrapper) == 0, interrupt.where

        unit(lambda n=n: table.insert(2 * n + 1))
        assert table.has(2 * n + 1), interrupt.where
    else:
        pytest.fail("the work does not end")
    assert n > 40
    assert lost


class Timer:
    """Raises in the main thread, at a moment of its own."""

    def __enter__(self) -> Timer:
        self._before = signal.signal(signal.SIGALRM, self._strike)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _strike(self, *_: object) -> None:
        raise Stop

    def hits(self, work: Callable[[], Any], seconds: float) -> bool:
        """Do the work; whether it was hit, which it is after so many seconds at the latest."""
        hit = True
        with suppress(Stop):  # after what follows
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                work()
                hit = False
            except (Stop, DatabaseError, InterfaceError, IndexError):
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return hit


def write_twice(table: Table, number: int) -> None:
    """A unit with a query of its own, a block in a block, and something around its statements."""
    with table.wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
    with table.wrapper.execute_wrapper(passing_on), transaction.atomic(using=table.wrapper.alias):
        table.insert(-number)
    with suppress(ZeroDivisionError), transaction.atomic(using=table.wrapper.alias):
        raise ZeroDivisionError
    table.insert(number)


def passing_on(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    return execute(sql, params, many, context)


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("little_garbage")
@pytest.mark.parametrize("release", ["auto", *MODES])
@pytest.mark.parametrize("unit", UNITS)
def test_after_an_interrupt_at_any_moment_the_next_work_commits(
    make_table: Callable[..., Table], unit: Callable[[Callable[[], Any]], None], release: str
) -> None:
    table = make_table(release)
    chance = random.Random(15)
    for number in range(1, 41):
        if number == 21:  # the first ones connect, and clean until the server's functions are known
            begun = monotonic()
        unit(lambda number=number: write_twice(table, number))
    usual = (monotonic() - begun) / 20
    said, hits, number = set(range(1, 41)), 0, 101
    with Timer() as timer:
        while hits < HITS and number < MOST_UNITS:
            seconds = max(1e-6, chance.random() * usual * 1.2)
            begun = monotonic()
            if timer.hits(lambda number=number: unit(lambda: write_twice(table, number)), seconds):
                hits += 1
                # Frames that it went through may be kept by a circle, with what they have: on
                # Python 3.10 by any error that a generator's context manager has seen, such as
                # asgiref's, where Django looks for connections.
                gc.collect()
            else:
                said.add(number)
                usual = monotonic() - begun  # the machine may have less to do by now
            unit(lambda number=number: table.insert(number + 1))
            said.add(number + 1)
            assert not table.wrapper.in_atomic_block
            assert not table.wrapper.execute_wrappers
            number += 2
    found = table.looker.execute(f"SELECT number FROM {table.name} WHERE number > 0")
    assert said - {number for (number,) in found} == set()
    assert hits == HITS


@pytest.fixture(params=MODES)
def table(make_table: Callable[..., Table], request: pytest.FixtureRequest) -> Table:
    return make_table(request.param)


def leave_a_block(table: Table) -> None:
    """An interrupt strikes at the first instruction of the end of a block."""
    with pytest.raises(Stop), at_an_opcode_of_atomic(1, "__exit__"):
        table.insert(1)
    assert table.wrapper.in_atomic_block


@pytest.mark.parametrize("unit", UNITS)
def test_the_error_names_the_work_and_the_next_work_commits(
    table: Table, caplog: pytest.LogCaptureFixture, unit: Callable[[Callable[[], Any]], None]
) -> None:
    unit(lambda: leave_a_block(table))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert UNITS[unit] in record.getMessage()
    assert "INSERT" not in record.getMessage()

    unit(lambda: table.insert(2))
    assert (table.has(1), table.has(2)) == (False, True)


@pytest.mark.parametrize("unit", UNITS)
def test_what_was_left_outside_of_any_work_is_ended_when_some_begins(
    table: Table, unit: Callable[[Callable[[], Any]], None]
) -> None:
    leave_a_block(table)
    unit(lambda: table.insert(2))
    assert (table.has(1), table.has(2)) == (False, True)


@pytest.mark.stress
@pytest.mark.parametrize("name", ["__enter__", "__exit__"])
def test_what_is_left_outside_at_any_opcode_is_ended_when_some_work_begins(
    table: Table, name: str
) -> None:
    for n in range(1, 1000):
        interrupt = at_an_opcode_of_atomic(n, name)
        with suppress(Stop, DatabaseError, InterfaceError, IndexError), interrupt:
            table.insert_nested(2 * n)
        if not interrupt.where:
            break
        in_scope(lambda n=n: table.insert(2 * n + 1))
        assert table.has(2 * n + 1), interrupt.where
    assert 40 < n < 999


def test_work_that_lost_its_own_end_is_over_nevertheless(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    @transaction.atomic(using=table.wrapper.alias)
    def decorated() -> None:  # which refers to its block for ever
        table.insert(1)
        raise RuntimeError

    def lost(*args: Any) -> None:
        raise Stop

    def work_without_an_end() -> None:
        with django_connpool.scope("lost"):
            # The end of the inner block, then that of the outer one: which is interrupted.
            with pytest.raises(Stop), AtTheSecond():
                decorated()
            inside.end_of_scopes_is(monkeypatch, lost)

    with suppress(Stop):
        work_without_an_end()
    monkeypatch.undo()
    assert table.wrapper.in_atomic_block
    in_scope(lambda: table.insert(2))
    assert (table.has(1), table.has(2)) == (False, True)


class AtTheSecond(Interrupter):
    """Strikes at the first line of the second `Atomic.__exit__`."""

    def __init__(self) -> None:
        def concerns(frame: FrameType) -> bool:
            return frame.f_code.co_filename == DJANGOS and frame.f_code.co_name == "__exit__"

        first = transaction.Atomic.__exit__.__code__.co_firstlineno
        super().__init__(2, Stop, concerns, lambda frame: frame.f_lineno > first + 1)


@pytest.mark.parametrize(
    "end",
    [
        lambda wrapper: django_connpool.release(),
        lambda wrapper: wrapper.close(),
        lambda wrapper: close_old_connections(),
    ],
)
def test_giving_back_ends_it(table: Table, end: Callable[[Any], None]) -> None:
    leave_a_block(table)
    end(table.wrapper)
    assert on_loan(table.wrapper) == 0
    table.insert(2)
    assert (table.has(1), table.has(2)) == (False, True)


@pytest.mark.parametrize(
    "end",
    [lambda: django_connpool.release(), close_old_connections, lambda: in_scope(lambda: None)],
)
def test_a_block_that_goes_on_is_left_alone(table: Table, end: Callable[[], None]) -> None:
    with transaction.atomic(using=table.wrapper.alias):
        table.insert(1)
        end()
        table.insert(2)
    assert (table.has(1), table.has(2)) == (True, True)


@pytest.mark.parametrize("unit", UNITS)
def test_a_block_around_the_work_is_kept(
    table: Table, unit: Callable[[Callable[[], Any]], None]
) -> None:
    @transaction.atomic(using=table.wrapper.alias)
    def around() -> None:
        unit(lambda: table.insert(1))
        unit(lambda: table.insert(2))

    around()
    assert (table.has(1), table.has(2)) == (True, True)


def test_a_block_in_a_thread_that_outlives_its_work_is_kept(table: Table) -> None:
    ended = threading.Event()

    def in_thread() -> None:
        mine = connections[table.wrapper.alias]
        theirs = Table.__new__(Table)
        theirs.wrapper, theirs.name, theirs.looker = mine, table.name, table.looker
        with transaction.atomic(using=mine.alias):
            theirs.insert(1)
            ended.wait(DEADLINE)
            in_scope(lambda: theirs.insert(2))
        mine.close()

    with django_connpool.scope("job 17"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(in_thread,))
        thread.start()
    ended.set()
    thread.join(DEADLINE)
    assert (table.has(1), table.has(2)) == (True, True)


@pytest.mark.parametrize("name", ["__enter__", "__exit__", "_pop"])
def test_what_is_executed_around_statements_ends_with_its_block(table: Table, name: str) -> None:
    def concerns(frame: FrameType) -> bool:
        return frame.f_code.co_filename == inside.file_of_work() and frame.f_code.co_name == name

    @table.wrapper.execute_wrapper(passing_on)
    def decorated() -> None:
        assert table.wrapper.execute_wrappers == [passing_on]

    stack = table.wrapper.execute_wrappers
    for n in range(1, 200):
        interrupt = AtAnOpcode(n, Stop, concerns, lambda frame: False)
        with suppress(Stop), interrupt:
            with table.wrapper.execute_wrapper(passing_on):
                assert stack[-1] is passing_on
            decorated()
        assert not stack, interrupt.where
        if not interrupt.where:
            break
    assert 5 < n < 199
