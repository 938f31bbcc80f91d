"""SAVEPOINT waits for the next statement and goes with it, and nobody can tell.

What a block in a block answers is asked of stock Django, and of this backend with and without it.
Scenes that look at the connection in between say so: from then on savepoints go at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, transaction
from django.test.utils import CaptureQueriesContext

from tests import inside
from tests.cluster import Server
from tests.databases import Databases, pid, round_trips, value
from tests.interrupter import Interrupter, is_safe
from tests.pool.real.helpers import until_known

from .test_riding import (
    SUBJECTS,
    TABLE,
    Told,
    a_conflict,
    categories,
    counted,
    prepared,
    told_of_errors,
)

ADD = "INSERT INTO notes (text) VALUES (%s)"


@pytest.fixture
def three(databases: Databases) -> list[Any]:
    return [prepared(databases.add(name, **entry)) for name, entry in SUBJECTS.items()]


def ask(wrapper: Any, query: str, params: Any = None) -> Told:
    """What a statement answers, without a look at the connection."""
    with wrapper.cursor() as cursor:
        cursor.execute(query, params)
        return [cursor.fetchall() if cursor.description else None, cursor.statusmessage]


def atomic(wrapper: Any, **kwargs: Any) -> Any:
    return transaction.atomic(using=wrapper.alias, **kwargs)


def texts(wrapper: Any) -> Told:
    found = ask(wrapper, "SELECT text FROM notes ORDER BY id")
    ask(wrapper, "DELETE FROM notes")
    return found


def savepoint(alias: str) -> str:
    make: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint
    return str(make(using=alias))


def one_in_one(wrapper: Any) -> Told:
    with atomic(wrapper), atomic(wrapper):
        return ask(wrapper, "SELECT 1")


def after_a_statement(wrapper: Any) -> Told:
    with atomic(wrapper):
        told = ask(wrapper, ADD, ["outer"])
        with atomic(wrapper):
            told += ask(wrapper, ADD, ["inner"])
        with atomic(wrapper):
            told += ask(wrapper, ADD, ["second"])
    return told + texts(wrapper)


def three_deep(wrapper: Any) -> Told:
    with atomic(wrapper), atomic(wrapper), atomic(wrapper):
        told = ask(wrapper, ADD, ["deep"])
    return told + texts(wrapper)


def none_inside(wrapper: Any) -> Told:
    with atomic(wrapper):
        told = ask(wrapper, ADD, ["outer"])
        with atomic(wrapper), atomic(wrapper):
            pass
        with suppress(KeyError), atomic(wrapper), atomic(wrapper):
            raise KeyError
    return told + texts(wrapper)


def none_at_all(wrapper: Any) -> Told:
    with suppress(KeyError), atomic(wrapper):
        with atomic(wrapper), atomic(wrapper):
            pass
        with atomic(wrapper), atomic(wrapper):
            raise KeyError
    return texts(wrapper)


def the_inner_is_rolled_back(wrapper: Any) -> Told:
    with atomic(wrapper):
        with suppress(KeyError), atomic(wrapper):
            ask(wrapper, ADD, ["inner"])
            raise KeyError
        ask(wrapper, ADD, ["outer"])
    return texts(wrapper)


def the_inner_fails(wrapper: Any) -> Told:
    told: Told = []
    with atomic(wrapper):
        ask(wrapper, ADD, ["outer"])
        with told_of_errors(told), atomic(wrapper):
            ask(wrapper, "SELECT nothing FROM notes")
        with told_of_errors(told), atomic(wrapper), atomic(wrapper):
            ask(wrapper, ADD, ["outer"])
        ask(wrapper, ADD, ["more"])
    return told + texts(wrapper)


def an_error_is_swallowed(wrapper: Any) -> Told:
    told: Told = []
    with told_of_errors(told), atomic(wrapper), atomic(wrapper):
        with told_of_errors(told):
            ask(wrapper, "SELECT nothing")
        with told_of_errors(told), atomic(wrapper):
            ask(wrapper, "SELECT 1")
    return told + texts(wrapper)


def what_cannot_be_merged(wrapper: Any) -> Told:
    with atomic(wrapper):
        with suppress(Exception), atomic(wrapper):
            ask(wrapper, "SELECT %s, %s", [1])
        with atomic(wrapper):
            with suppress(Exception):
                ask(wrapper, "SELECT %s", [object()])
            ask(wrapper, ADD, ["after"])
    return texts(wrapper)


def by_hand(wrapper: Any) -> Told:
    """With Django's own functions, without blocks."""
    alias = wrapper.alias
    with atomic(wrapper):
        first = savepoint(alias)
        second = savepoint(alias)
        ask(wrapper, ADD, ["lost"])
        transaction.savepoint_rollback(second, using=alias)
        transaction.savepoint_commit(second, using=alias)
        third = savepoint(alias)
        transaction.savepoint_commit(first, using=alias)  # which ends the third one, too
        told: Told = []
        with told_of_errors(told), atomic(wrapper):
            transaction.savepoint_commit(third, using=alias)
        ask(wrapper, ADD, ["kept"])
        fourth = savepoint(alias)
        fifth = savepoint(alias)
        transaction.savepoint_rollback(fourth, using=alias)
        ask(wrapper, ADD, ["too"])
        transaction.savepoint_rollback(fourth, using=alias)
        with told_of_errors(told), atomic(wrapper):
            transaction.savepoint_commit(fifth, using=alias)
        savepoint(alias)  # that nobody ends
    return [told[0], told[3], *texts(wrapper)]  # its name is in the error's text


def in_other_ways(wrapper: Any) -> Told:
    """Statements that no SAVEPOINT goes with."""
    told: Told = []
    for query in ("SELECT 1; SELECT 2", "/* */ SELECT 1", "CREATE TABLE pg_temp.made ()", ""):
        with suppress(KeyError), atomic(wrapper), atomic(wrapper):
            told += ask(wrapper, query)
            raise KeyError
    with atomic(wrapper):
        with suppress(KeyError), atomic(wrapper):
            with wrapper.cursor() as cursor:
                cursor.executemany(ADD, [["one"], ["two"]])
            raise KeyError
        with suppress(KeyError), atomic(wrapper):
            with wrapper.cursor() as cursor, cursor.copy("COPY notes (text) FROM STDIN") as copy:
                copy.write_row(["copied"])
            raise KeyError
        with atomic(wrapper), wrapper.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 3)")
            told += cursor.fetchall()
        with told_of_errors(told), atomic(wrapper), wrapper.chunked_cursor() as cursor:
            cursor.execute("SELECT nothing")
        with atomic(wrapper), wrapper.cursor() as cursor:
            told += list(cursor.stream("SELECT generate_series(1, 3)"))
    return told + texts(wrapper)


def with_the_connection(wrapper: Any) -> Told:
    """Who looks at it finds what Django would have there."""
    told: Told = []
    with atomic(wrapper):
        with suppress(KeyError), atomic(wrapper):
            raw = wrapper.connection
            told.append(raw.info.transaction_status)
            raw.execute(ADD, ["by hand"])
            raise KeyError
        with atomic(wrapper), wrapper.connection.transaction():
            ask(wrapper, ADD, ["within"])
        with suppress(KeyError), atomic(wrapper):
            with wrapper.connection.pipeline():
                ask(wrapper, ADD, ["piped"])
            raise KeyError
    return told + texts(wrapper)


def ended_by_hand(wrapper: Any) -> Told:
    """Somebody commits past Django: the block cannot end as it should, and says so."""
    told: Told = []
    with told_of_errors(told), atomic(wrapper), atomic(wrapper):
        ask(wrapper, ADD, ["committed"])
        wrapper.connection.commit()
    return told[1:2] + texts(wrapper)


def closed_inside(wrapper: Any) -> Told:
    told: Told = []
    with told_of_errors(told), atomic(wrapper), atomic(wrapper):
        wrapper.close()
    return told[:2] + ask(wrapper, "SELECT 1")


def the_log(wrapper: Any) -> Told:
    seen: Told = []

    def note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        seen.append((sql.partition(" ")[0], params, many))
        return execute(sql, params, many, context)

    with CaptureQueriesContext(wrapper) as captured, wrapper.execute_wrapper(note):
        none_inside(wrapper)
        after_a_statement(wrapper)
        the_inner_is_rolled_back(wrapper)
    return seen + [query["sql"].partition(" ")[0] for query in captured.captured_queries]


SCENES = (
    *(one_in_one, after_a_statement, three_deep, none_inside, none_at_all),
    *(the_inner_is_rolled_back, the_inner_fails, an_error_is_swallowed, what_cannot_be_merged),
    *(by_hand, in_other_ways, with_the_connection, ended_by_hand, closed_inside, the_log),
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_blocks_in_blocks_answer_as_they_do_in_django(
    three: list[Any], scene: Callable[[Any], Told]
) -> None:
    told = [scene(wrapper) for wrapper in three]
    assert told[0] == told[1]
    assert told[0] == told[2]
    for wrapper in three:
        assert not wrapper.in_atomic_block and wrapper.get_autocommit()
        assert value(wrapper, "SELECT 1") == 1


def created_in_a_block(wrapper: Any) -> None:
    """BEGIN and a look; SAVEPOINT and INSERT, RELEASE; COMMIT."""
    with atomic(wrapper):
        categories(wrapper).get_or_create(slug="new", defaults={"name": "new"})


@pytest.mark.parametrize(
    ("scene", "before", "now"),
    [
        (one_in_one, 5, 3),
        (created_in_a_block, 6, 4),
        (a_conflict, 7, 5),
    ],
    ids=lambda found: getattr(found, "__name__", None),
)
def test_how_often_the_server_is_waited_for(
    three: list[Any], scene: Any, before: int, now: int
) -> None:
    found = [counted(wrapper, scene) for wrapper in three]
    assert found == [before, before, now]


def test_a_block_in_a_block_without_a_statement_sends_nothing(databases: Databases) -> None:
    wrapper = prepared(databases.add(pool={"max_size": 1}))

    def work() -> None:
        with atomic(wrapper), suppress(KeyError), atomic(wrapper), atomic(wrapper):
            raise KeyError

    assert round_trips(wrapper, work) == 0


@pytest.mark.parametrize("change", [None, "SET app.a = 'b'"], ids=["clean", "cleaned"])
def test_a_savepoint_that_was_not_sent_is_not_the_next_borrowers(
    databases: Databases, change: str | None
) -> None:
    pool = databases.add(pool={"max_size": 1}).pool
    until_known(pool)
    with pool.connection() as conn:
        if change is not None:
            conn.execute(change)
        inside.defer_a_savepoint(conn, b"SAVEPOINT waiting")
    with pool.connection() as conn:
        conn.autocommit = False
        conn.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InvalidSavepointSpecification):
            conn.execute("RELEASE waiting")


def test_where_the_connection_was_looked_at_savepoints_go_at_once(databases: Databases) -> None:
    """Its holder may commit past Django, and a savepoint of later would be one too many."""
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    with atomic(wrapper):
        raw = wrapper.connection
        with suppress(DatabaseError), atomic(wrapper):
            raw.commit()
            assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert value(wrapper, "SELECT 1") == 1


def test_a_transaction_that_failed_past_the_cursors_is_not_taken_for_one_that_goes_on(
    databases: Databases,
) -> None:
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    with atomic(wrapper):
        ask(wrapper, "SELECT 1")
        with suppress(KeyError), atomic(wrapper):
            wrapper.in_hand.pgconn.exec_(b"SELECT nothing")
            raise KeyError
        assert wrapper.needs_rollback
    assert value(wrapper, "SELECT 1") == 1


def test_a_savepoint_that_the_server_refuses_is_an_error_of_the_statement(
    databases: Databases,
) -> None:
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    with pytest.raises(DatabaseError) as refused, atomic(wrapper):
        value(wrapper, "SELECT 1")
        inside.defer_a_savepoint(wrapper.in_hand, b"SAVEPOINT")
        value(wrapper, "SELECT 2")
    assert isinstance(refused.value.__cause__, psycopg.errors.SyntaxError)
    assert value(wrapper, "SELECT 1") == 1


def test_a_connection_that_dies_before_the_inner_statement_says_why(
    three: list[Any], cluster: Server
) -> None:
    told = []
    for wrapper in three:
        told.append([])
        doomed = pid(wrapper)
        with told_of_errors(told[-1]), atomic(wrapper):
            value(wrapper, "SELECT 1")
            with atomic(wrapper):
                cluster.execute("SELECT pg_terminate_backend(%s, 20000)", (doomed,))
                value(wrapper, "SELECT 2")
        assert pid(wrapper) != doomed
    assert told[0][:2] == told[1][:2] == told[2][:2]


@pytest.mark.parametrize("steps", [1, 2, 3], ids=["made", "rolled back", "released"])
def test_after_an_interrupt_as_a_step_of_a_savepoint_is_over_the_next_statement_is_sent(
    databases: Databases, steps: int
) -> None:
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    with atomic(wrapper):
        with inside.interrupted_after_a_savepoint(wrapper):
            sid = savepoint(wrapper.alias)
            if steps > 1:
                transaction.savepoint_rollback(sid, using=wrapper.alias)
            if steps > 2:
                transaction.savepoint_commit(sid, using=wrapper.alias)
        ask(wrapper, ADD, ["sent"])
        with atomic(wrapper):
            ask(wrapper, ADD, ["too"])
    assert texts(wrapper)[0] == [("sent",), ("too",)]


@pytest.mark.stress
@pytest.mark.usefixtures("little_garbage")
def test_an_interrupt_at_any_line_commits_nothing_by_halves(
    databases: Databases, cluster: Server
) -> None:
    """An interrupt that comes as a savepoint waits loses no savepoint in silence."""
    cluster.execute("CREATE SCHEMA interrupted")
    options = {"options": "-c search_path=interrupted"}
    wrapper = databases.add(pool={"max_size": 1}, options=options)
    ask(wrapper, TABLE.replace("TEMPORARY", ""))
    code = {*inside.code_of_releasing(), *inside.code_of_riding()}

    def work() -> None:
        with atomic(wrapper):
            with atomic(wrapper):
                ask(wrapper, ADD, ["inner"])
            with suppress(KeyError), atomic(wrapper):
                ask(wrapper, ADD, ["lost"])
                raise KeyError
            ask(wrapper, ADD, ["outer"])

    try:
        for n in range(1, 3000):
            interrupt = Interrupter(
                n, KeyboardInterrupt, lambda frame: frame.f_code.co_filename in code, is_safe
            )
            with interrupt, suppress(KeyboardInterrupt, DatabaseError):
                work()
            gc.collect()  # what the interrupt has left
            wrapper.in_atomic_block = False
            wrapper.close()
            found = [text for (text,) in texts(wrapper)[0]]
            assert found in ([], ["inner", "outer"]), interrupt.where
            if not interrupt.where:
                assert found
                break
        else:
            pytest.fail("the work does not end")
        assert n > 20
    finally:
        wrapper.close()
        cluster.execute("DROP SCHEMA interrupted CASCADE")
