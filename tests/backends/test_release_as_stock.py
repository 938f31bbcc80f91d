"""What code can see of `release: "transaction"` is what it sees of Django's own backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db.utils import IntegrityError

from tests.cluster import Server
from tests.databases import Databases, in_hand, in_thread, value

STOCK = "django.db.backends.postgresql"
# Renamed in Django 6.1.
begin_savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint
SCENES: dict[str, Callable[[Any], Any]] = {}


def scene(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    SCENES[function.__name__] = function
    return function


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error).__name__


def state(wrapper: Any) -> tuple[Any, ...]:
    return (
        wrapper.in_atomic_block,
        wrapper.needs_rollback,
        wrapper.get_autocommit(),
        len(wrapper.run_on_commit),
        len(wrapper.savepoint_ids),
    )


@scene
def attributes_of_a_cursor(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        before = cursor.description, cursor.rowcount, cursor.closed
        cursor.execute("SELECT %s AS x, 2 AS y", [1])
        return (
            before,
            [(column.name, column.type_code) for column in cursor.description],
            cursor.rowcount,
            cursor.rownumber,
            cursor.statusmessage,
            cursor.arraysize,
            cursor.closed,
            cursor.fetchall(),
            cursor.rownumber,
            outcome(cursor.fetchone),
            str(cursor.cursor.query) if hasattr(cursor.cursor, "query") else None,
        )


@scene
def a_closed_cursor(wrapper: Any) -> Any:
    cursor = wrapper.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    cursor.close()
    return cursor.closed, *(
        outcome(lambda name=name, args=args: getattr(cursor, name)(*args))
        for name, args in [
            ("fetchone", ()),
            ("fetchall", ()),
            ("execute", ("SELECT 1",)),
            ("executemany", ("SELECT 1", [()])),
            ("nextset", ()),
        ]
    )


@scene
def a_cursor_that_was_not_used(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        return outcome(cursor.fetchone), outcome(cursor.fetchall), outcome(lambda: list(cursor))


@scene
def results_one_after_the_other(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 2")
        found = [cursor.fetchall()]
        while cursor.nextset():
            found.append(cursor.fetchall())
        return found


@scene
def scrolling(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 9)")
        cursor.scroll(4)
        found = cursor.fetchone()
        cursor.scroll(0, mode="absolute")
        return found, cursor.fetchone(), cursor.fetchmany(2), next(iter(cursor))


@scene
def executemany_with_results(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        cursor.cursor.executemany("SELECT %s", [(1,), (2,)], returning=True)
        found = [cursor.fetchone()]
        while cursor.nextset():
            found.append(cursor.fetchone())
        return found, cursor.rowcount


@scene
def a_statement_for_each_row_of_another(wrapper: Any) -> Any:
    with wrapper.cursor() as outer, wrapper.cursor() as inner:
        outer.execute("SELECT generate_series(1, 5)")
        found = []
        for (number,) in outer:
            inner.execute("SELECT %s * 2", [number])
            found.append((inner.fetchone(), value(wrapper, "SELECT %s", [number])))
        return found


@scene
def a_function_called(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        cursor.callproc("upper", ["a"])
        return cursor.fetchall()


@scene
def copying_in(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        with cursor.copy("COPY stock_things (id) FROM STDIN") as copy:
            copy.write_row((71,))
        return cursor.rowcount, value(wrapper, "SELECT count(*) FROM stock_things WHERE id = 71")


@scene
def order_of_hooks(wrapper: Any) -> Any:
    seen: list[Any] = []

    def hook(name: str, error: bool = False) -> Callable[[], None]:
        def run() -> None:
            seen.append((name, value(wrapper, "SELECT 1"), state(wrapper)))
            if error:
                raise ZeroDivisionError

        return run

    def late() -> None:
        seen.append("late")
        with transaction.atomic(using=wrapper.alias):
            transaction.on_commit(hook("in a hook"), using=wrapper.alias)

    transaction.on_commit(hook("outside"), using=wrapper.alias)
    with suppress(ZeroDivisionError), transaction.atomic(using=wrapper.alias):
        transaction.on_commit(hook("first"), using=wrapper.alias)
        with suppress(ZeroDivisionError), transaction.atomic(using=wrapper.alias):
            transaction.on_commit(hook("rolled back"), using=wrapper.alias)
            raise ZeroDivisionError
        with transaction.atomic(using=wrapper.alias):
            transaction.on_commit(late, using=wrapper.alias)
        transaction.on_commit(hook("robust", True), using=wrapper.alias, robust=True)
        transaction.on_commit(hook("fails", True), using=wrapper.alias)
        transaction.on_commit(hook("never"), using=wrapper.alias)
    return seen, state(wrapper)


@scene
def hooks_of_a_commit_by_hand(wrapper: Any) -> Any:
    seen: list[str] = []
    wrapper.set_autocommit(False)
    value(wrapper, "SELECT 1")
    with transaction.atomic(using=wrapper.alias):
        transaction.on_commit(lambda: seen.append("yes"), using=wrapper.alias)
    wrapper.commit()
    before = list(seen), state(wrapper)
    wrapper.set_autocommit(True)
    return before, seen, state(wrapper)


@scene
def savepoints(wrapper: Any) -> Any:
    outside = begin_savepoint(using=wrapper.alias)
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "INSERT INTO stock_things VALUES (1) RETURNING id")
        saved = begin_savepoint(using=wrapper.alias)
        value(wrapper, "INSERT INTO stock_things VALUES (2) RETURNING id")
        transaction.savepoint_rollback(saved, using=wrapper.alias)
        with suppress(IntegrityError), transaction.atomic(using=wrapper.alias):
            value(wrapper, "INSERT INTO stock_things VALUES (1) RETURNING id")
        inside = state(wrapper)
    return outside, inside, state(wrapper), value(wrapper, "SELECT sum(id) FROM stock_things")


@scene
def an_error_inside(wrapper: Any) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            with suppress(DatabaseError):
                value(wrapper, "SELECT 1 / 0")
            value(wrapper, "SELECT 1")

    def marked() -> Any:
        with transaction.atomic(using=wrapper.alias):
            with suppress(ValueError), transaction.mark_for_rollback_on_error(wrapper.alias):
                raise ValueError
            return value(wrapper, "SELECT 1")

    return outcome(block), outcome(marked), state(wrapper), value(wrapper, "SELECT 1")


@scene
def a_commit_that_fails(wrapper: Any) -> Any:
    seen: list[int] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            transaction.on_commit(lambda: seen.append(1), using=wrapper.alias)
            value(wrapper, "INSERT INTO stock_parts VALUES (99) RETURNING thing")

    return outcome(block), seen, state(wrapper), value(wrapper, "SELECT 1")


@scene
def a_commit_that_fails_by_hand(wrapper: Any) -> Any:
    wrapper.set_autocommit(False)
    value(wrapper, "INSERT INTO stock_parts VALUES (99) RETURNING thing")
    found = outcome(wrapper.commit), state(wrapper), outcome(wrapper.rollback)
    wrapper.set_autocommit(True)
    return found, state(wrapper), value(wrapper, "SELECT count(*) FROM stock_parts")


@scene
def what_is_refused(wrapper: Any) -> Any:
    def durable() -> None:
        with (
            transaction.atomic(using=wrapper.alias),
            transaction.atomic(using=wrapper.alias, durable=True),
        ):
            pass

    def inside(call: Callable[[], Any]) -> Any:
        with transaction.atomic(using=wrapper.alias):
            return outcome(call)

    return (
        outcome(durable),
        inside(lambda: wrapper.set_autocommit(False)),
        inside(wrapper.commit),
        inside(wrapper.rollback),
        outcome(lambda: transaction.set_rollback(True, using=wrapper.alias)),
        outcome(wrapper.commit),
        outcome(wrapper.rollback),
        state(wrapper),
    )


@scene
def closed_in_a_block(wrapper: Any) -> Any:
    seen: list[Any] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            value(wrapper, "INSERT INTO stock_things VALUES (5) RETURNING id")
            wrapper.close()
            # Which one differs between Django's versions, and with Django's own pool.
            with pytest.raises(DatabaseError):
                value(wrapper, "SELECT 1")
            seen.append(state_without_asking(wrapper))

    return outcome(block), seen, value(wrapper, "SELECT count(*) FROM stock_things")


def state_without_asking(wrapper: Any) -> tuple[Any, ...]:
    return wrapper.in_atomic_block, wrapper.needs_rollback, wrapper.closed_in_transaction


@scene
def closed_with_a_cursor_open(wrapper: Any) -> Any:
    cursor = wrapper.cursor()
    cursor.execute("SELECT generate_series(1, 3)")
    cursor.fetchone()
    wrapper.close()
    wrapper.close()
    return cursor.fetchall(), value(wrapper, "SELECT 1")


@scene
def a_cursor_from_before_a_block(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        with transaction.atomic(using=wrapper.alias):
            cursor.execute("INSERT INTO stock_things VALUES (6) RETURNING id")
            seen = value(wrapper, "SELECT count(*) FROM stock_things WHERE id = 6")
            transaction.set_rollback(True, using=wrapper.alias)
        cursor.execute("SELECT count(*) FROM stock_things WHERE id = 6")
        return seen, cursor.fetchone()


@scene
def a_cursor_from_within_a_block(wrapper: Any) -> Any:
    with transaction.atomic(using=wrapper.alias):
        cursor = wrapper.cursor()
        cursor.execute("SELECT generate_series(1, 3)")
        first = cursor.fetchone()
    rest = cursor.fetchall()
    cursor.execute("SELECT 7")
    return first, rest, cursor.fetchone()


@scene
def piece_by_piece(wrapper: Any) -> Any:
    found = []
    with wrapper.chunked_cursor() as first, wrapper.chunked_cursor() as second:
        for cursor in (first, second):
            cursor.execute("SELECT generate_series(1, 300)")
        found.append(first.fetchmany(2))
        with transaction.atomic(using=wrapper.alias):
            value(wrapper, "SELECT 1")
        found.append(second.fetchmany(2))
        with suppress(DatabaseError):
            value(wrapper, "SELECT 1 / 0")
        found.append(first.fetchmany(2))
    with transaction.atomic(using=wrapper.alias), wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        found.append(cursor.fetchone())
        value(wrapper, "SELECT 1")
        found.append(len(cursor.fetchall()))
    return found, value(wrapper, "SELECT count(*) FROM pg_cursors")


@scene
def what_debugging_records(wrapper: Any) -> Any:
    wrapper.force_debug_cursor = True
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT %s", [1])
    with wrapper.cursor() as cursor:
        cursor.executemany("SELECT %s", [(1,), (2,)])
    wrapper.force_debug_cursor = False
    return [query["sql"] for query in wrapper.queries]


@scene
def shared_with_another_thread(wrapper: Any) -> Any:
    wrapper.inc_thread_sharing()
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "INSERT INTO stock_things VALUES (8) RETURNING id")
        inside = in_thread(lambda: value(wrapper, "SELECT count(*) FROM stock_things"))
        transaction.set_rollback(True, using=wrapper.alias)
    after = in_thread(lambda: value(wrapper, "SELECT count(*) FROM stock_things"))
    wrapper.dec_thread_sharing()
    return inside, after


@scene
def other_parts_of_django(wrapper: Any) -> Any:
    tables = [name for name in wrapper.introspection.table_names() if name.startswith("stock_")]
    with wrapper.schema_editor() as editor:
        editor.execute("ALTER TABLE stock_things ADD COLUMN note text")
        inside = wrapper.in_atomic_block
    with wrapper.constraint_checks_disabled():
        value(wrapper, "SELECT 1")
    wrapper.check_constraints()
    found = sorted(tables), inside, wrapper.features.supports_json_field
    wrapper.close()  # for what has altered something is kept until then
    return found


@pytest.mark.parametrize("name", SCENES)
def test_it_is_as_with_django(name: str, databases: Databases, cluster: Server) -> None:
    results = []
    for engine, pool in (
        (STOCK, None),
        ("django_connpool.backends.postgresql", {"max_size": 1, "release": "transaction"}),
    ):
        cluster.execute("DROP TABLE IF EXISTS stock_parts, stock_things")
        cluster.execute("CREATE TABLE stock_things (id int PRIMARY KEY)")
        cluster.execute(
            "CREATE TABLE stock_parts (thing int REFERENCES stock_things "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
        wrapper = databases.add(engine=engine, pool=pool)
        try:
            results.append(SCENES[name](wrapper))
            if pool:
                assert in_hand(wrapper) is None
                assert wrapper.pool.snapshot()["in_use"] == 0
        finally:
            wrapper.in_atomic_block = False
            wrapper.close()
            databases.remove()
    cluster.execute("DROP TABLE stock_parts, stock_things")
    assert results[1] == results[0]
