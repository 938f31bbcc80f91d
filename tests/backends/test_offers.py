"""Between two statements a connection is offered: nobody waits for it while it lies idle."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, InterfaceError, close_old_connections, connections, transaction
from django.db.backends.signals import connection_created

from django_connpool import borrowing, hold, pinned, release, released, scope, scopes
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
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until

NEVER = float("inf")


@pytest.fixture
def single(databases: Databases) -> Any:
    return acquainted(databases.add(pool={"max_size": 1, "timeout": DEADLINE}))


@pytest.fixture
def calm(databases: Databases) -> Any:
    """As `single`, where nobody takes anything but the test."""
    pool = {"max_size": 1, "timeout": DEADLINE, "release": "request"}
    return acquainted(databases.add(pool=pool))


def acquainted(wrapper: Any) -> Any:
    """Its connection is there, and the pool knows its server's functions.

    Until then no statement ends the short way. And nobody else refers to the connection any more,
    as the thread that opens one does for a moment.
    """
    until_known(wrapper.pool)
    workers = f"{wrapper.pool.name}-worker"
    wait_until(lambda: all(one.name != workers for one in threading.enumerate()), "it ends")
    return wrapper


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


def borrows(wrapper: Any) -> int:
    return int(wrapper.pool.get_stats()["requests_num"])


# -- Who needs it gets it ---------------------------------------------------------------------


def test_as_long_as_nobody_needs_it_it_stays_with_its_borrower(single: Any) -> None:
    first, before = pid(single), borrows(single)
    for _ in range(3):
        assert inside.offered(single) is not None and in_hand(single) is None
        assert pid(single) == first
    with transaction.atomic(using="spare"):
        assert pid(single) == first
        assert in_hand(single) is not None and inside.offered(single) is None
    assert borrows(single) == before
    single.close()
    assert on_loan(single) == 0


def test_a_block_whose_transaction_was_ended_by_hand_keeps_it(single: Any) -> None:
    with transaction.atomic(using="spare"):
        first = pid(single)
        with single.cursor() as cursor:
            cursor.execute("COMMIT")
        inside.take_all(single.pool)
        assert in_hand(single) is not None and pid(single) == first
    assert inside.offered(single) is not None


# -- A statement that ends the short way: one that calls nothing, and is not the first ----------


@pytest.fixture
def plain(single: Any) -> Any:
    value(single, "SELECT 1")
    assert inside.offered(single) is not None
    return single


def test_who_keeps_a_reference_keeps_it(plain: Any) -> None:
    raw = plain.connection
    for _ in range(2):
        value(plain, "SELECT 1")
        inside.take_all(plain.pool)
        assert in_hand(plain) is raw
    del raw
    value(plain, "SELECT 1")
    assert inside.offered(plain) is not None


def test_what_threads_share_is_not_offered(plain: Any) -> None:
    plain.inc_thread_sharing()
    value(plain, "SELECT 1")
    assert in_hand(plain) is not None
    plain.dec_thread_sharing()
    assert inside.offered(plain) is not None


def test_what_a_block_keeps_is_not_offered(plain: Any) -> None:
    with pinned("spare"):
        value(plain, "SELECT 1")
        assert in_hand(plain) is not None
    assert inside.offered(plain) is not None


def test_what_a_cursor_on_the_server_reads_from_is_not_offered(plain: Any) -> None:
    with plain.chunked_cursor() as cursor:
        cursor.execute("VALUES (1), (2), (3)")
        assert cursor.fetchone() == (1,)
        value(plain, "SELECT 1")
        assert in_hand(plain) is not None
        assert cursor.fetchone() == (2,)
    assert inside.offered(plain) is not None


def test_a_connection_object_that_was_changed_past_the_wrapper_is_not_offered(plain: Any) -> None:
    found = weakref.ref(plain.connection)
    value(plain, "SELECT 1")
    assert inside.offered(plain) is not None, "nobody has it any more"
    found().tag = "mine"  # type: ignore[union-attr]
    value(plain, "SELECT 1")
    assert in_hand(plain) is not None


def test_while_others_wait_a_statement_of_a_long_loan_gives_back(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_settled=3600.0, offer_loan=0.0)
    value(single, "SELECT 1")
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(mine()))
    waiting.start()
    wait_until(lambda: single.pool.is_awaited, "somebody waits", DEADLINE)
    value(single, "SELECT 1")
    waiting.join(DEADLINE)
    assert got


def a_pause_in_which_it_is_taken(wrapper: Any) -> None:
    """Somebody stands in line, gets it between two statements, and gives it back."""
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
        rival = threading.Thread(target=lambda: _closing(mine))
        rival.start()
        wait_until(lambda: wrapper.pool.is_awaited, "somebody waits", DEADLINE)
    rival.join(DEADLINE)


def test_who_pauses_where_others_wait_gives_back_at_once_from_then_on(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_crowded=3600.0)
    a_pause_in_which_it_is_taken(plain)
    for _ in range(3):
        inside.tune(monkeypatch, offer_settled=0.0)  # so that each pause is a long one
        value(plain, "SELECT 1")
        assert on_loan(plain) == 0
    inside.tune(monkeypatch, offer_settled=3600.0)  # and this is none
    value(plain, "SELECT 1")
    assert on_loan(plain) == 1 and inside.offered(plain) is not None


def test_but_not_when_nobody_has_waited_for_a_while(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_crowded=0.0)
    a_pause_in_which_it_is_taken(plain)
    for _ in range(2):
        value(plain, "SELECT 1")
        assert on_loan(plain) == 1 and inside.offered(plain) is not None


@pytest.mark.parametrize("release", ["auto", "transaction"])
def test_who_pauses_keeps_nobody_in_line_waiting(
    databases: Databases, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_settled=3600.0, offer_loan=3600.0)  # the terms of its offers
    pool = {"max_size": 1, "timeout": DEADLINE, "release": release}
    wrapper = acquainted(databases.add(pool=pool))
    value(wrapper, "SELECT 1")
    inside.take_all(wrapper.pool)
    inside.tune(monkeypatch, offer_settled=0.0, offer_crowded=0.0)  # only the line tells of others
    got: list[int] = []
    with transaction.atomic(using="spare"):
        value(wrapper, "SELECT 1")
        waiting = threading.Thread(target=lambda: got.append(mine()))
        waiting.start()
        wait_until(lambda: wrapper.pool.is_awaited, "somebody waits", DEADLINE)
    waiting.join(DEADLINE)
    assert got


def test_with_request_a_pause_gives_nothing_back(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_crowded=NEVER)  # as if others had just waited
    value(calm, "SELECT 1")
    inside.take_all(calm.pool)  # as after `max_hold_idle`
    value(calm, "SELECT 1")
    assert on_loan(calm) == 1


def test_a_statement_of_work_that_has_ended_gives_back(single: Any) -> None:
    with scope("work"):
        value(single, "SELECT 1")
        work = scopes.current.get()
        assert work is not None
        work.end()
        value(single, "SELECT 1")
        assert on_loan(single) == 0


def test_what_an_interrupt_has_left_as_parked_is_offered_anew(plain: Any) -> None:
    inside.leave_as_parked(plain)
    value(plain, "SELECT 1")
    assert inside.offered(plain) is not None
    assert plain.pool.snapshot()["offered"] == 1


def test_what_may_be_kept_for_so_long_is_looked_at_after_each_statement(
    databases: Databases,
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "max_hold_idle": 0.2})
    acquainted(wrapper)
    for _ in range(2):
        value(wrapper, "SELECT 1")
        wait_until(lambda: on_loan(wrapper) == 0, "it is taken", DEADLINE)


def test_who_waits_gets_what_lies_idle_in_somebodys_hand(single: Any, lingering: Lingering) -> None:
    first = lingering.does(mine)
    assert pid(single) == first
    assert lingering.does(mine) == first
    assert pid(single) == first
    assert single.pool.get_stats()["connections_num"] == 1


@pytest.mark.parametrize("release", ["auto", "transaction"])
def test_jobs_in_threads_that_live_on_do_not_keep_each_other_waiting(
    databases: Databases, release: str
) -> None:
    databases.add(pool={"max_size": 2, "timeout": DEADLINE, "release": release})
    with ThreadPoolExecutor(6) as executor:
        found = list(executor.map(lambda _: mine(), range(40)))
        list(executor.map(lambda _: connections.close_all(), range(6)))
    assert len(found) == 40 and len(set(found)) <= 2


def test_a_query_in_the_thread_of_the_event_loop_takes_no_place_for_ever(single: Any) -> None:
    """As at the end of an `asgi.py`."""
    pid(single)

    async def main() -> int:
        return await sync_to_async(lambda: in_thread(mine))()

    assert asyncio.run(main())


def test_a_thread_at_work_at_once_goes_on_with_its_own(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has just been offered is left alone, whoever waits."""
    inside.tune(monkeypatch, offer_settled=3600.0, offer_loan=3600.0)
    first = pid(single)
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(mine()))
    waiting.start()
    wait_until(lambda: single.pool.is_awaited, "somebody waits", DEADLINE)
    for _ in range(5):
        assert pid(single) == first
    assert single.pool.is_awaited and not got
    single.close()
    waiting.join(DEADLINE)
    assert got == [first]


def test_but_not_for_longer_than_a_moment(single: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.tune(monkeypatch, offer_settled=3600.0, offer_loan=0.0)
    with transaction.atomic(using="spare"):
        first = pid(single)
        got: list[int] = []
        waiting = threading.Thread(target=lambda: got.append(mine()))
        waiting.start()
        wait_until(lambda: single.pool.is_awaited, "somebody waits", DEADLINE)
    waiting.join(DEADLINE)
    assert got == [first]
    assert pid(single) == first


def test_with_request_nothing_is_taken_before_the_request_ends(
    calm: Any, lingering: Lingering
) -> None:
    lingering.does(mine)
    assert inside.take_ripe(calm.pool) == 0
    calm.pool.timeout = 0.1
    with pytest.raises(DatabaseError, match="On loan to 'ThreadPoolExecutor"):
        pid(calm)


def test_a_dead_one_in_somebodys_hand_costs_neither_of_them_an_error(
    single: Any, lingering: Lingering, cluster: Server
) -> None:
    first = lingering.does(mine)
    assert cluster.terminate(first) == 1
    assert pid(single) != first
    assert lingering.does(mine) != first


def test_a_statement_that_finds_its_connection_dead_after_a_pause_runs_on_another(
    calm: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_trust=0.0)
    first = pid(calm)
    assert cluster.terminate(first) == 1
    with transaction.atomic(using="spare"):
        assert pid(calm) != first


def test_hooks_wait_for_their_transaction_whoever_has_the_connection_meanwhile(
    single: Any,
) -> None:
    done: list[str] = []
    with transaction.atomic(using="spare"):
        pid(single)
        transaction.on_commit(lambda: done.append(f"{in_thread(mine) > 0}"), using="spare")
        transaction.on_commit(lambda: done.append("second"), using="spare")
    assert done == ["True", "second"]


# -- What is in use stays ---------------------------------------------------------------------


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


def with_a_server_side_cursor() -> Iterator[None]:
    with connections["spare"].chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 1000)")
        assert cursor.fetchone() == (1,)
        yield
        assert cursor.fetchone() == (2,)


def with_the_raw_connection() -> Iterator[None]:
    mine()
    raw = connections["spare"].connection
    mine()
    yield
    assert raw.execute("SELECT 1").fetchone() == (1,)
    del raw
    mine()


def with_the_raw_connection_of_a_block() -> Iterator[None]:
    with transaction.atomic(using="spare"):
        mine()
        raw = connections["spare"].connection
    yield
    assert raw.execute("SELECT 1").fetchone() == (1,)
    del raw
    mine()


def with_the_connection_of_a_cursor() -> Iterator[None]:
    with connections["spare"].cursor() as cursor:
        cursor.execute("SELECT 1")
        raw = cursor.connection
    mine()
    yield
    assert raw.execute("SELECT 1").fetchone() == (1,)
    del raw
    mine()


def with_a_raw_cursor() -> Iterator[None]:
    mine()
    raw = connections["spare"].connection.cursor()
    mine()
    yield
    assert raw.execute("SELECT 1").fetchone() == (1,)
    del raw
    mine()


def with_a_changed_connection() -> Iterator[None]:
    mine()
    connections["spare"].connection.read_only = True
    mine()
    yield
    connections["spare"].connection.read_only = None
    mine()


def in_a_pinned_block() -> Iterator[None]:
    with pinned("spare"):
        mine()
        yield


def shared_by_threads() -> Iterator[None]:
    mine()
    connections["spare"].inc_thread_sharing()
    mine()
    yield
    connections["spare"].dec_thread_sharing()


IN_USE = [
    in_atomic,
    in_atomic_before_its_first_query,
    without_autocommit,
    with_a_server_side_cursor,
    with_the_raw_connection,
    with_the_raw_connection_of_a_block,
    with_the_connection_of_a_cursor,
    with_a_raw_cursor,
    with_a_changed_connection,
    in_a_pinned_block,
    shared_by_threads,
]


@pytest.mark.parametrize("state", IN_USE)
def test_what_is_in_use_is_never_taken(
    single: Any, lingering: Lingering, state: Callable[[], Iterator[None]]
) -> None:
    block = contextmanager(state)()
    lingering.does(block.__enter__)
    inside.take_all(single.pool)
    assert on_loan(single) == 1

    lingering.does(block.__exit__, None, None, None)
    del block
    inside.take_all(single.pool)
    assert on_loan(single) == 0


@pytest.mark.parametrize(
    "statement",
    ["SET work_mem = '7MB'", "SELECT set_config('work_mem', '7MB', false)"],
)
def test_what_a_thread_has_set_stays_with_it(
    single: Any, lingering: Lingering, statement: str
) -> None:
    lingering.does(lambda: connections["spare"].cursor().execute(statement))
    inside.take_all(single.pool)
    assert on_loan(single) == 1
    assert lingering.does(lambda: value(connections["spare"], "SHOW work_mem")) == "7MB"


def test_what_a_function_has_set_inside_stays_with_its_caller(
    databases: Databases, lingering: Lingering, cluster: Server
) -> None:
    cluster.execute(
        "CREATE OR REPLACE FUNCTION offered_tag() RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('app.tag', 'inside', false); END $$"
    )
    spare = databases.add(pool={"max_size": 1, "timeout": DEADLINE})
    until_known(spare.pool)
    lingering.does(lambda: value(connections["spare"], "SELECT offered_tag()"))
    inside.take_all(spare.pool)
    assert on_loan(spare) == 1
    assert lingering.does(lambda: value(connections["spare"], "SHOW app.tag")) == "inside"
    lingering.does(connections.close_all)
    assert value(spare, "SELECT current_setting('app.tag', true)") in ("", None)
    cluster.execute("DROP FUNCTION offered_tag()")


def test_where_references_are_not_counted_who_has_read_it_keeps_it_until_the_work_ends(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.do_not_count(monkeypatch)
    with scope("work"):
        mine()
        assert single.connection is not None
        mine()
        inside.take_all(single.pool)
        assert on_loan(single) == 1
    assert on_loan(single) == 0


def test_who_has_looked_keeps_nothing_once_the_next_statement_has_ended(single: Any) -> None:
    """As the panels of debug toolbars do, and Django where it quotes."""
    first = pid(single)
    for _ in range(2):
        assert single.connection.info.backend_pid == first
        assert inside.offered(single) is None, "it is in hand"
        assert pid(single) == first
        assert inside.offered(single) is not None


def test_a_wrapper_around_statements_that_looks_keeps_nothing(single: Any) -> None:
    seen: list[int] = []

    def look(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        seen.append(context["connection"].connection.info.backend_pid)
        return execute(sql, params, many, context)

    with single.execute_wrapper(look):
        first = pid(single)
        assert inside.offered(single) is not None
    assert seen == [first]


def test_a_cursor_that_was_closed_answers_as_psycopgs_does(single: Any) -> None:
    with single.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert single.connection is not None  # so that it has to be let go
    assert inside.offered(single) is not None
    assert (cursor.closed, cursor.rowcount, cursor.description) == (True, -1, None)
    assert not hasattr(cursor.cursor, "__nothing__")
    single.ops.last_executed_query(cursor, "SELECT 1", ())  # does not fail
    for use in (cursor.fetchone, cursor.fetchall, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(InterfaceError, match="the cursor is closed"):
            use()


def test_the_cursor_is_one_of_psycopgs_to_whoever_asks(single: Any) -> None:
    with single.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert isinstance(cursor.cursor, psycopg.ClientCursor)
    with single.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")
        assert isinstance(cursor.cursor, psycopg.ServerCursor)


def test_an_incomparable_change_of_the_connection_keeps_it(single: Any) -> None:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise ValueError("on purpose")

        __hash__ = object.__hash__

    pid(single)
    single.connection.prepare_threshold = Incomparable()
    assert not inside.is_at_rest(single)
    single.connection.prepare_threshold = 5


def test_a_procedure_that_is_called_by_a_cursor_runs_on_the_present_connection(
    single: Any, lingering: Lingering
) -> None:
    with single.cursor() as cursor:
        cursor.execute("SELECT 1")
        inside.take_all(single.pool)
        assert lingering.does(mine)
        cursor.callproc("set_config", ["app.tag", "mine", False])
        assert cursor.fetchone() == ("mine",)
        inside.take_all(single.pool)
        assert on_loan(single) == 1, "it has state"
    assert value(single, "SHOW app.tag") == "mine"


def test_so_does_a_method_of_the_users_class_of_cursors(databases: Databases) -> None:
    class Asking(psycopg.ClientCursor[Any]):
        def ask(self, query: str) -> Any:
            return super().execute(query).fetchone()  # past what stands in front of this class

    options = {"cursor_factory": Asking}
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE}, options=options)
    with wrapper.cursor() as cursor:
        assert cursor.ask("SELECT 1") == (1,)
        assert inside.offered(wrapper) is not None
        assert cursor.ask("SELECT pg_backend_pid()") == cursor.ask("SELECT pg_backend_pid()")
        inside.take_all(wrapper.pool)
        assert cursor.ask("SELECT 2") == (2,)
        assert inside.offered(wrapper) is not None


def test_what_the_user_has_set_on_a_cursor_stays_when_its_connection_was_taken(
    single: Any, lingering: Lingering
) -> None:
    with single.cursor() as wrapped:
        cursor = wrapped.cursor  # psycopg's
        cursor.arraysize, cursor.row_factory, cursor.mark = 7, psycopg.rows.dict_row, "mine"
        cursor.execute("SELECT 1 AS one")
        inside.take_all(single.pool)
        assert lingering.does(mine)
        cursor.execute("SELECT 1 AS one UNION SELECT 2 ORDER BY 1")
        assert cursor.fetchmany(1) == [{"one": 1}]
        assert (cursor.arraysize, cursor.mark) == (7, "mine")
        cursor.adapters.register_loader("int4", psycopg.types.string.TextLoader)
        if psycopg.__version__ >= "3.3":  # which asks it for rows that are here already, too
            assert cursor.fetchone() == {"one": "2"}


def test_so_does_what_the_users_class_keeps(databases: Databases, lingering: Lingering) -> None:
    class Counting(psycopg.ClientCursor[Any]):
        __slots__ = ("all",)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.all, self.errors = 0, 0
            super().__init__(*args, **kwargs)

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            self.all += 1
            return super().execute(*args, **kwargs)

    options = {"cursor_factory": Counting}
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE}, options=options)
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.cursor.errors = 7
        inside.take_all(wrapper.pool)
        assert lingering.does(mine)
        cursor.execute("SELECT 2")
        assert (cursor.cursor.all, cursor.cursor.errors) == (2, 7)
        assert cursor.fetchone() == (2,)


def test_a_statement_in_the_midst_of_one_of_the_users_class_offers_nothing(
    databases: Databases, lingering: Lingering
) -> None:
    """It would leave the outer one to run on what others may take."""
    taken: list[int] = []

    class Preparing(psycopg.ClientCursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if query == "SELECT 2":
                self.execute("SELECT 1")
                inside.take_all(wrapper.pool)
                taken.append(on_loan(wrapper))
            return super().execute(query, *args, **kwargs)

    options = {"cursor_factory": Preparing}
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE}, options=options)
    assert value(wrapper, "SELECT 2") == 2
    assert taken == [1]
    assert inside.offered(wrapper) is not None


def test_rows_that_are_here_stay_when_their_connection_was_taken(
    single: Any, lingering: Lingering
) -> None:
    with single.cursor() as wrapped:
        cursor = wrapped.cursor
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        inside.take_all(single.pool)
        assert lingering.does(mine)
        assert cursor.connection is single.connection
        assert cursor.fetchone() == (2,)
        cursor.adapters.register_loader("int4", psycopg.types.string.TextLoader)
        assert cursor.fetchone() == (("3",) if psycopg.__version__ >= "3.3" else (3,))
        cursor.execute("SELECT 4")
        assert cursor.fetchone() is not None


def test_a_class_of_cursors_that_takes_no_front_keeps_its_connection_in_hand(
    databases: Databases,
) -> None:
    class Rigid(psycopg.ClientCursor[Any]):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            raise TypeError("it is not to be inherited from")

    def make(connection: Any, **kwargs: Any) -> Any:
        return Rigid(connection, **kwargs)

    wrapper = databases.add(
        pool={"max_size": 1, "timeout": DEADLINE}, options={"cursor_factory": make}
    )
    with scope("work"), wrapper.cursor() as cursor:
        assert type(cursor.cursor) is Rigid
        with wrapper.chunked_cursor() as other:  # of a class that does
            other.execute("SELECT 1")
        inside.take_all(wrapper.pool)
        assert on_loan(wrapper) == 1
        cursor.execute("SELECT 1")
        inside.take_all(wrapper.pool)
        assert on_loan(wrapper) == 1
        assert cursor.fetchone() == (1,)
    assert on_loan(wrapper) == 0


def test_a_cursor_made_by_hand_is_nobody_elses(single: Any) -> None:
    pid(single)
    raw = single.connection
    with raw.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.connection is raw
        cursor.executemany("SELECT %s", [(1,), (2,)])
        assert list(cursor.stream("SELECT 1")) == [(1,)]
        with cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert copy.read() == b"1\n"
        assert in_hand(single) is raw


@pytest.mark.parametrize("mode", ["auto", "transaction"])
def test_a_block_of_hold_is_offered_also_where_nobody_else_does(
    calm: Any, lingering: Lingering, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with hold(mode, "spare"):
            with transaction.atomic(using="spare"):
                mine()
                begun.set()
                wait_until(lambda: calm.pool.is_awaited, "somebody waits", DEADLINE)
            go_on.wait(DEADLINE)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(DEADLINE)
    try:
        assert pid(calm)
    finally:
        go_on.set()
        thread.join(DEADLINE)


def released_in_it(wrapper: Any) -> None:
    with released(wrapper.alias):
        assert on_loan(wrapper) == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda wrapper: release(wrapper.alias),
        lambda wrapper: close_old_connections(),
        lambda wrapper: scope("other").__enter__(),
        released_in_it,
    ],
    ids=["release", "request", "scope", "released"],
)
@pytest.mark.parametrize("how", ["pinned", "open cursor"])
def test_what_was_on_offer_is_not_taken_in_hand_and_kept_by_what_gives_back(
    single: Any, step: Callable[[Any], Any], how: str
) -> None:
    pid(single)
    outer = scopes.current.get()
    with pinned("spare") if how == "pinned" else single.cursor() as cursor:
        if cursor is not None:
            cursor.execute("SELECT 1")
        assert inside.offered(single) is not None
        step(single)
        assert on_loan(single) == 0
    scopes.current.set(outer)


@pytest.mark.parametrize("step", ["connect", "set None"])
def test_what_was_on_offer_is_not_lost_behind_another(calm: Any, step: str) -> None:
    for _ in range(3):
        pid(calm)
        if step == "connect":
            calm.connect()
        else:
            calm.connection = None
            assert calm.connection is None
    calm.close()
    assert on_loan(calm) == 0


def test_work_that_takes_turns_in_a_thread_finds_nothing_of_the_other(single: Any) -> None:
    first, second = scopes.Scope("first"), scopes.Scope("second")
    outer = scopes.current.set(first)
    mine()
    scopes.current.set(second)
    value(single, "SELECT set_config('app.tag', 'second', false)")
    borrowing.release_loans(first)
    assert value(single, "SHOW app.tag") == "second"
    borrowing.release_loans(second)
    scopes.current.set(first)
    assert value(single, "SELECT current_setting('app.tag', true)") in ("", None)
    borrowing.release_loans(first)
    scopes.current.reset(outer)
    assert on_loan(single) == 0


def test_it_is_usable_between_two_statements_and_is_not_kept_for_that(
    single: Any, lingering: Lingering, cluster: Server
) -> None:
    pid(single)
    assert single.is_usable()
    assert inside.offered(single) is not None
    inside.take_all(single.pool)
    assert single.is_usable()
    single.ensure_connection()
    assert single.is_usable()
    with transaction.atomic(using="spare"):
        backend = pid(single)
        assert cluster.terminate(backend) == 1
        assert not single.is_usable()
        single.close()


@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
def test_what_was_closed_below_it_is_not_usable_and_the_next_statement_borrows(
    databases: Databases, release: str
) -> None:
    """As one of Django's own tests closes it, and whoever else makes believe that it is gone."""
    wrapper = acquainted(
        databases.add(pool={"max_size": 1, "timeout": DEADLINE, "release": release})
    )
    for before in (pid, lambda wrapper: wrapper.ensure_connection()):
        before(wrapper)
        wrapper._close()
        assert not wrapper.is_usable()
        wrapper.close()
        assert on_loan(wrapper) == 0
    assert pid(wrapper)


def test_a_signal_handler_as_it_is_taken_up_leaves_no_two_in_one_offer(calm: Any) -> None:
    calm.pool.resize(0, 2)
    first = pid(calm)
    with inside.taking_up_with(lambda: pid(calm)):
        assert pid(calm) == first
    pid(calm)
    wait_until(lambda: on_loan(calm) == 1, "the handler's is back", DEADLINE)
    calm.close()
    assert on_loan(calm) == 0


# -- Ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda wrapper: release(wrapper.alias),
        lambda wrapper: wrapper.close(),
        lambda wrapper: close_old_connections(),
        lambda wrapper: inside.take_all(wrapper.pool),
    ],
    ids=["release", "close", "request", "take_offers"],
)
@pytest.mark.parametrize("release_mode", ["auto", "request"])
def test_it_goes_back_at_once_with(
    databases: Databases, end: Callable[[Any], None], release_mode: str
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE, "release": release_mode})
    first = pid(wrapper)
    end(wrapper)
    assert on_loan(wrapper) == 0
    assert pid(wrapper) == first


def test_closing_what_was_taken_borrows_nothing(single: Any) -> None:
    pid(single)
    before = borrows(single)
    inside.take_all(single.pool)
    single.close()
    single.close_if_unusable_or_obsolete()
    assert single.connection is None
    assert borrows(single) == before


def test_the_end_of_the_work_takes_it_from_other_threads(calm: Any, lingering: Lingering) -> None:
    with scope("work"):
        work = scopes.current.get()

        def statement() -> int:
            scopes.current.set(work)
            return mine()

        lingering.does(statement)
        assert on_loan(calm) == 1
    assert on_loan(calm) == 0


def test_what_they_use_as_the_work_ends_they_give_back_themselves(
    calm: Any, lingering: Lingering
) -> None:
    with scope("work"):
        work = scopes.current.get()

        def begin() -> None:
            scopes.current.set(work)
            transaction.set_autocommit(False, using="spare")
            mine()

        lingering.does(begin)
    assert on_loan(calm) == 1
    lingering.does(lambda: transaction.rollback(using="spare"))
    lingering.does(lambda: transaction.set_autocommit(True, using="spare"))
    assert on_loan(calm) == 0


def test_work_that_ends_leaves_alone_what_its_thread_has_borrowed_for_other_work(
    calm: Any,
) -> None:
    """As async requests do, whose queries take turns in one thread."""
    first, second = scopes.Scope("first"), scopes.Scope("second")
    outer = scopes.current.set(first)
    mine()
    inside.take_all(calm.pool)
    scopes.current.set(second)
    value(calm, "SELECT set_config('app.tag', 'second', false)")
    borrowing.release_between(first)
    borrowing.release_loans(first)
    asyncio.run(borrowing.release_in_its_thread(first))
    assert value(calm, "SHOW app.tag") == "second"
    borrowing.release_loans(second)
    assert on_loan(calm) == 0
    scopes.current.reset(outer)


def test_what_a_block_keeps_over_the_end_of_its_scope_is_given_back_by_the_outer_one(
    calm: Any,
) -> None:
    with scope("outer"):
        with scope("inner"):
            keeping = pinned("spare")
            keeping.__enter__()
            mine()
        assert on_loan(calm) == 1
        keeping.__exit__(None, None, None)
        mine()
        assert on_loan(calm) == 1
    assert on_loan(calm) == 0


def test_what_they_have_set_for_it_ends_with_their_next_statement(
    calm: Any, lingering: Lingering
) -> None:
    with scope("work"):
        work = scopes.current.get()

        def begin() -> None:
            scopes.current.set(work)
            value(connections["spare"], "SELECT set_config('app.tag', 'mine', false)")

        lingering.does(begin)
    assert on_loan(calm) == 1
    lingering.does(mine)
    assert on_loan(calm) == 0
    assert value(calm, "SELECT current_setting('app.tag', true)") in ("", None)


def test_the_work_may_end_in_the_moment_of_the_offer(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread ends it, and has seen no offer yet."""
    with scope("work"):
        work = scopes.current.get()
        assert work is not None
        with inside.offering_after(monkeypatch, work.end):
            pid(calm)
        assert on_loan(calm) == 0


def test_a_thread_that_ends_leaves_what_it_did_not_use(
    single: Any, caplog: pytest.LogCaptureFixture
) -> None:
    until_known(single.pool)
    first = in_thread(mine)
    gc.collect()
    wait_until(lambda: on_loan(single) == 0, "it goes back", DEADLINE)
    assert pid(single) == first, "it was not closed"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert single.pool.get_stats()["loans_reclaimed"] == 0


@pytest.mark.parametrize("is_in_a_circle", [False, True])
def test_a_wrapper_that_is_collected_leaves_what_it_did_not_use(
    calm: Any, is_in_a_circle: bool
) -> None:
    until_known(calm.pool)
    left = [calm.copy()]
    first = pid(left[0])
    if is_in_a_circle:
        left.append(left)
        del left
    else:
        left.clear()
    gc.collect()
    assert pid(calm) == first
    assert calm.pool.get_stats()["loans_reclaimed"] == 0


@pytest.mark.parametrize("end", ["drain", "close"])
def test_what_would_be_closed_if_it_were_idle_is_not_left_in_a_hand_that_does_not_use_it(
    single: Any, lingering: Lingering, cluster: Server, end: str
) -> None:
    first, pool = lingering.does(mine), single.pool
    getattr(pool, end)()
    wait_until(lambda: connected(cluster, single) == 0, "it is closed", DEADLINE)
    assert pool.snapshot()["offered"] == 0
    assert lingering.does(mine) != first


def test_a_drain_does_not_wait_for_the_next_look_around(single: Any, lingering: Lingering) -> None:
    until_known(single.pool)
    lingering.does(mine)
    far = time.monotonic() + 2 * DEADLINE
    wait_until(lambda: inside.upkeep_due(single.pool) > far, "nothing is to be done", DEADLINE)
    assert on_loan(single) == 1
    single.pool.drain()
    wait_until(lambda: on_loan(single) == 0, "it goes back", DEADLINE)


def test_max_hold_idle_ends_a_loan_although_nobody_waits(
    databases: Databases, lingering: Lingering
) -> None:
    spare = databases.add(pool={"max_size": 1, "max_hold_idle": 0.05, "release": "request"})
    first = lingering.does(mine)
    wait_until(lambda: on_loan(spare) == 0, "it goes back", DEADLINE)
    assert lingering.does(mine) == first
    wait_until(lambda: on_loan(spare) == 0, "it goes back again", DEADLINE)
    wait_until(lambda: inside.watch_due(spare.pool) == NEVER, "nobody looks any more", DEADLINE)


def test_max_hold_idle_begins_anew_with_each_statement(
    databases: Databases, lingering: Lingering
) -> None:
    spare = databases.add(pool={"max_size": 1, "max_hold_idle": 3600})
    lingering.does(mine)
    watch, now = inside.watch_of(spare.pool), time.monotonic()
    assert now + 3599 < watch.run(now + 3590) < now + 3601 and on_loan(spare) == 1
    lingering.does(mine)
    watch.run(now + 3600)
    assert on_loan(spare) == 1
    watch.run(time.monotonic() + 3601)
    assert on_loan(spare) == 0


def test_an_event_loop_is_refused_although_the_connection_is_there(single: Any) -> None:
    pid(single)
    offered = inside.offered(single)

    async def query() -> None:
        with single.cursor() as cursor:
            cursor.execute("SELECT 1")

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(query())
    assert inside.offered(single) is offered


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_has_nothing_on_offer(single: Any) -> None:
    backend = pid(single)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert inside.offered(single) is None
            assert pid(single) != backend
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pid(single) == backend


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_looks_for_offers_although_its_parent_was_about_to(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_settled=0.05)  # so that who comes does not find it at once
    with transaction.atomic(using="spare"):
        pid(single)
        rival = threading.Thread(target=lambda: _closing(mine))
        rival.start()
        wait_until(lambda: single.pool.snapshot()["longest_wait"] > 0.05, "it is looked", DEADLINE)
        child = os.fork()
        if not child:
            status = 1
            try:
                threads = Lingering(), Lingering()
                threads[0].does(mine)
                single.pool.timeout = 5.0
                threads[1].does(mine)
                status = 0
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    rival.join(DEADLINE)


def _closing(work: Callable[[], Any]) -> None:
    try:
        work()
    finally:
        connections.close_all()


@pytest.mark.parametrize("mode", ["auto", "request"])
def test_between_two_parts_of_a_stream_it_is_given_back(databases: Databases, mode: str) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": mode})

    def body() -> Iterator[bytes]:
        for _ in range(2):
            pid(wrapper)
            assert inside.offered(wrapper)
            yield b"part"

    for _ in inside.parts_of(body(), "stream"):
        assert on_loan(wrapper) == 0
    assert on_loan(wrapper) == 0


def test_the_event_loop_gives_nothing_back_itself(databases: Databases) -> None:
    threads: list[int] = []
    databases.add(
        "in_a_loop",  # whose thread keeps its own wrapper
        pool={"max_size": 1, "reset": lambda conn: threads.append(threading.get_ident())},
    )

    def statement() -> Any:
        own = connections["in_a_loop"]
        pid(own)
        assert inside.offered(own)
        return own

    async def main() -> Any:
        async with scope("work"):
            work = scopes.current.get()
            assert work is not None
            await sync_to_async(statement)()
            assert not threads
            await borrowing.release_between_in_its_thread(work)
            assert len(threads) == 1
            own = await sync_to_async(statement)()
        assert len(threads) == 2
        assert threading.get_ident() not in threads
        return own

    assert on_loan(asyncio.run(main())) == 0


def test_the_background_thread_calls_no_reset_of_the_users(
    databases: Databases, lingering: Lingering
) -> None:
    threads: list[str] = []
    spare = databases.add(
        pool={
            "max_size": 1,
            "timeout": DEADLINE,
            "reset": lambda conn: threads.append(threading.current_thread().name),
        }
    )
    lingering.does(mine)
    watch = inside.watch_of(spare.pool)
    with inside.somebody_in_line(spare.pool):
        watch.run(time.monotonic() + 60)
        wait_until(lambda: threads, "it was given back", DEADLINE)
    assert threads == ["spare-offers"]


def test_a_block_of_hold_changes_the_terms(single: Any, lingering: Lingering) -> None:
    settled = inside.tuning("offer_settled")
    pid(single)
    assert inside.terms(single) == (settled, NEVER)
    with hold("request", "spare"):
        assert inside.terms(single) == (NEVER, NEVER)
        pid(single)
        assert inside.terms(single) == (NEVER, NEVER)
    assert inside.terms(single) == (settled, NEVER)
    inside.take_all(single.pool)
    lingering.does(mine)
    with hold("request", "spare"):  # of a loan that is over: nothing is changed for the other
        assert inside.take_ripe(single.pool) == 1


@pytest.mark.filterwarnings("ignore:Accessing the database during app initialization")
def test_an_app_that_queries_as_it_starts_keeps_nothing(
    calm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread that may live on, as that of a scheduler."""
    inside.tune(monkeypatch, offer_start=0.01)
    monkeypatch.setattr("django.apps.apps.ready", False)
    first = pid(calm)
    wait_until(lambda: on_loan(calm) == 0, "it goes back", DEADLINE)
    monkeypatch.undo()
    assert pid(calm) == first


def test_an_error_of_a_signal_handler_before_giving_back_keeps_nothing(
    databases: Databases,
) -> None:
    early = databases.add(pool={"max_size": 1, "release": "transaction"})
    with scope("work"):
        try:
            with inside.handing_back_by(early, side_effect=SystemExit):
                pid(early)
        except SystemExit:
            assert on_loan(early) == 0
        else:
            pytest.fail("there was no error")


def fail_to_go_on(wrapper: Any, error: type[BaseException]) -> None:
    """Have the next statement of this work end so."""

    def fail(**kwargs: Any) -> None:
        raise error

    wrapper.pool.drain()
    wrapper.pool.take_offers()
    connection_created.connect(fail)
    with pytest.raises(error):
        pid(wrapper)
    connection_created.disconnect(fail)
    assert on_loan(wrapper) == 0


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_work_that_fails_to_go_on_may_try_again(calm: Any, error: type[BaseException]) -> None:
    with scope("work"):
        first = pid(calm)
        fail_to_go_on(calm, error)
        assert calm.connection is not None
        assert pid(calm) != first


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_work_that_fails_to_go_on_leaves_nothing_to_the_next(
    calm: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    with scope("first"):
        pid(calm)
        fail_to_go_on(calm, error)
    monkeypatch.setitem(calm.settings_dict["OPTIONS"], "application_name", "another")
    with scope("second"):
        assert value(calm, "SHOW application_name") == "another"


# -- What is told of it -----------------------------------------------------------------------


def test_it_is_told_from_what_is_in_use(single: Any) -> None:
    pid(single)
    seen = single.pool.snapshot()
    assert (seen["in_use"], seen["offered"], seen["idle"]) == (0, 1, 0)
    assert [loan["offered"] for loan in seen["loans"]] == [True]
    with transaction.atomic(using="spare"):
        pid(single)
        seen = single.pool.snapshot()
        assert (seen["in_use"], seen["offered"]) == (1, 0)
        assert [loan["offered"] for loan in seen["loans"]] == [False]


def test_nobody_is_blamed_for_what_anybody_could_have_had(
    databases: Databases, lingering: Lingering, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, offer_settled=3600.0)
    spare = databases.add(pool={"max_size": 2, "timeout": DEADLINE})
    lingering.does(mine)
    with transaction.atomic(using="spare"):
        pid(spare)
        spare.pool.timeout = 0.2  # both are open, whatever that took
        with pytest.raises(DatabaseError, match="On loan to 'MainThread'") as caught:
            in_thread(mine)
    assert "ThreadPoolExecutor" not in str(caught.value)


def test_it_is_no_leak(
    databases: Databases, caplog: pytest.LogCaptureFixture, lingering: Lingering
) -> None:
    spare = databases.add(pool={"max_size": 1, "leak_after": 600})
    lingering.does(mine)
    inside.set_clock(spare.pool, lambda: time.monotonic() + 601)
    inside.tick(spare.pool)
    assert inside.deadline(spare.pool) > time.monotonic() + 601, "it is looked at later"
    lingering.does(mine)
    inside.tick(spare.pool)
    inside.take_all(spare.pool)
    assert not caplog.messages


def test_it_is_no_leak_while_somebody_gives_it_back(
    databases: Databases,
    caplog: pytest.LogCaptureFixture,
    lingering: Lingering,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare = databases.add(pool={"max_size": 1, "leak_after": 600})
    lingering.does(mine)
    inside.set_clock(spare.pool, lambda: time.monotonic() + 601)
    give_back = spare.pool.putconn

    def looked_at_before(conn: Any) -> None:
        inside.tick(spare.pool)
        give_back(conn)

    monkeypatch.setattr(spare.pool, "putconn", looked_at_before)
    inside.take_all(spare.pool)
    assert on_loan(spare) == 0
    assert not caplog.messages
    assert spare.pool.get_stats()["loans_leaked"] == 0


# -- Owners and takers ------------------------------------------------------------------------


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.stress
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("mode", ["auto", "request", "transaction"])
def test_owners_and_takers_never_use_a_connection_together(
    databases: Databases, cluster: Server, mode: str
) -> None:
    """Truth: the answers, the rows written, and the server's count of connections."""
    size = 3
    spare = databases.add(pool={"max_size": size, "timeout": 60, "release": mode})
    cluster.execute("DROP TABLE IF EXISTS offered")
    cluster.execute("CREATE TABLE offered (n int)")
    stop, most = threading.Event(), 0

    def hammer() -> None:
        nonlocal most
        while not stop.is_set():
            inside.take_all(spare.pool)
            most = max(most, connected(cluster, spare))

    def work(number: int) -> int:
        chance = random.Random(number)
        wrapper = connections["spare"]
        written = 0
        try:
            for step in range(150):
                tag = number * 1_000_000 + step
                kind = chance.randrange(5)
                time.sleep(chance.choice((0, 0, 1e-5, 1e-4)))
                if kind == 0:
                    assert value(wrapper, "SELECT %s::int", [tag]) == tag
                elif kind == 1:
                    with wrapper.cursor() as cursor:
                        for more in range(3):
                            cursor.execute("SELECT %s::int", [tag + more])
                            assert cursor.fetchone() == (tag + more,)
                elif kind == 2:
                    with transaction.atomic(using="spare"):
                        first = pid(wrapper)
                        value(wrapper, "INSERT INTO offered VALUES (%s) RETURNING n", [tag])
                        assert pid(wrapper) == first
                    written += 1
                elif kind == 3:
                    with scope("work"):
                        value(wrapper, "SELECT set_config('app.tag', %s, false)", [str(tag)])
                        assert value(wrapper, "SHOW app.tag") == str(tag)
                    assert value(wrapper, "SELECT current_setting('app.tag', true)") in ("", None)
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
    for thread in hammers:
        thread.start()
    try:
        written = in_threads([lambda n=n: work(n) for n in range(5)], 100)  # type: ignore[misc]
    finally:
        stop.set()
        for thread in hammers:
            thread.join()
    assert value(spare, "SELECT count(*) FROM offered") == sum(written)
    spare.close()
    cluster.execute("DROP TABLE offered")
    assert on_loan(spare) == 0
    assert most <= size
    stats = spare.pool.get_stats()
    assert stats["loans_reclaimed"] == stats["returns_bad"] == 0
    assert stats["connections_num"] == size
