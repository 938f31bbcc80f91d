"""BEGIN goes to the server with the first statement of its transaction, and nobody can tell.

What a transaction answers is asked of stock Django, and of this backend with and without it.
"""

from __future__ import annotations

import gc
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.core.handlers.base import BaseHandler
from django.db import DatabaseError, IntegrityError, transaction
from django.test.utils import CaptureQueriesContext

from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from shop.models import Category
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, pid, round_trips, value
from tests.pool.real.helpers import until_known
from tests.proxy import Proxy
from tests.testproject.processes import wait_until

STOCK = {"engine": "django.db.backends.postgresql"}
SUBJECTS: dict[str, dict[str, Any]] = {
    "stock": STOCK,
    "as_django": {"pool": {"max_size": 1, "round_trips": "as django"}},
    "fewest": {"pool": {"max_size": 1}},
}
TABLE = "CREATE TEMPORARY TABLE notes (id serial PRIMARY KEY, text text UNIQUE)"

Told = list[Any]


def without_numbers(text: str) -> str:
    """Every session has its own schema for what is temporary."""
    return re.sub(r"pg_temp_\d+", "pg_temp", text)


@contextmanager
def told_of_errors(told: Told) -> Iterator[None]:
    try:
        yield
    except (DatabaseError, psycopg.Error) as error:
        cause: Any = error.__cause__ or error
        diag = getattr(cause, "diag", None)
        told += [type(error), type(cause), without_numbers(str(error)), cause.sqlstate]
        told += [getattr(diag, name, None) for name in ("message_primary", "statement_position")]


def run(wrapper: Any, query: str, params: Any = None) -> Told:
    with wrapper.cursor() as cursor:
        cursor.execute(query, params)
        rows = cursor.fetchall() if cursor.description else None
        columns = cursor.description and [each[:6] for each in cursor.description]
        status = wrapper.connection.info.transaction_status
        return [rows, columns, cursor.rowcount, cursor.statusmessage, status]


def block(*queries: Any) -> Callable[[Any], Told]:
    def scene(wrapper: Any) -> Told:
        told: Told = []
        with told_of_errors(told), transaction.atomic(using=wrapper.alias):
            told.append(wrapper.connection.info.transaction_status)
            for each in queries:
                told += run(wrapper, *(each if isinstance(each, tuple) else (each,)))
        return told

    return scene


def an_error_that_is_caught(wrapper: Any) -> Told:
    told: Told = []
    with told_of_errors(told), transaction.atomic(using=wrapper.alias):
        with told_of_errors(told):
            run(wrapper, "SELECT nothing")
        with told_of_errors(told):
            run(wrapper, "SELECT 1")
    return told + run(wrapper, "SELECT 1")


def what_cannot_be_merged(wrapper: Any) -> Told:
    """Nothing is sent, and what follows is in the transaction all the same."""
    told: Told = []
    with told_of_errors(told), transaction.atomic(using=wrapper.alias):
        with wrapper.cursor() as cursor:
            with suppress(Exception):
                cursor.execute("SELECT %s", [1, 2])
            cursor.execute("SELECT %s", [3])
            told += cursor.fetchall()
        told.append(wrapper.connection.info.transaction_status)
        with suppress(Exception):
            run(wrapper, "SELECT %s", [object()])
        told += run(wrapper, "SELECT 4")
    return told


def the_same_cursor_later(wrapper: Any) -> Told:
    told: Told = []
    with wrapper.cursor() as cursor:
        with transaction.atomic(using=wrapper.alias), suppress(Exception):
            cursor.execute("SELECT %s", [1, 2])
        cursor.execute("SELECT 2")
        told += cursor.fetchall()
        told.append(wrapper.connection.info.transaction_status)
        with transaction.atomic(using=wrapper.alias):
            cursor.execute("INSERT INTO notes (text) VALUES ('later')")
            told.append(wrapper.connection.info.transaction_status)
    return told


def what_is_rolled_back(wrapper: Any) -> Told:
    with suppress(KeyError), transaction.atomic(using=wrapper.alias):
        run(wrapper, "INSERT INTO notes (text) VALUES ('lost')")
        raise KeyError
    return run(wrapper, "SELECT text FROM notes WHERE text = 'lost'")


def a_nested_block(wrapper: Any) -> Told:
    told: Told = []
    with transaction.atomic(using=wrapper.alias):
        with told_of_errors(told), transaction.atomic(using=wrapper.alias):
            run(wrapper, "INSERT INTO notes (text) VALUES ('first')")
            run(wrapper, "INSERT INTO notes (text) VALUES ('first')")
        told += run(wrapper, "INSERT INTO notes (text) VALUES ('first') RETURNING text")
    return told + run(wrapper, "DELETE FROM notes WHERE text = 'first'")


def by_hand(wrapper: Any) -> Told:
    wrapper.set_autocommit(False)
    try:
        told = run(wrapper, "SELECT 1")
        wrapper.rollback()
        told += run(wrapper, "SELECT 2")
        wrapper.commit()
    finally:
        wrapper.set_autocommit(True)
    return told


def with_an_isolation_level(wrapper: Any) -> Told:
    wrapper.ensure_connection()
    connection = wrapper.connection
    connection.isolation_level, connection.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
    told: Told = []
    try:
        told += block("SELECT current_setting('transaction_isolation')")(wrapper)
        told += block("INSERT INTO shop_category (name) VALUES ('refused')")(wrapper)
    finally:
        connection.isolation_level = connection.read_only = None
    return told


def many_rows(wrapper: Any) -> Told:
    with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        cursor.executemany("INSERT INTO notes (text) VALUES (%s)", [["one"], ["two"]])
        told = [cursor.rowcount, wrapper.connection.info.transaction_status]
    return told + run(wrapper, "DELETE FROM notes WHERE text IN ('one', 'two')")


def raw(query: str) -> Callable[[Any], Told]:
    def scene(wrapper: Any) -> Told:
        told: Told = []
        with told_of_errors(told), transaction.atomic(using=wrapper.alias):
            with wrapper.connection.cursor() as cursor:
                cursor.execute(query)
                told.append(cursor.fetchall())
            told.append(wrapper.connection.info.transaction_status)
        return told

    return scene


def binary(wrapper: Any) -> Told:
    told: Told = []
    with told_of_errors(told), transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        with told_of_errors(told):
            cursor.cursor.execute("SELECT 1", binary=True)
        told += run(wrapper, "SELECT 2")
    return told


def a_stream(wrapper: Any) -> Told:
    with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        told = list(cursor.cursor.stream("SELECT generate_series(1, 3)"))
        return [*told, wrapper.connection.info.transaction_status]


def a_copy(wrapper: Any) -> Told:
    with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        with cursor.cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            told: Told = [bytes(data) for data in copy]
        return [*told, wrapper.connection.info.transaction_status]


def an_iterator(wrapper: Any) -> Told:
    with transaction.atomic(using=wrapper.alias), wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        return [cursor.fetchall(), wrapper.connection.info.transaction_status]


def a_pipeline(wrapper: Any) -> Told:
    with transaction.atomic(using=wrapper.alias), wrapper.connection.pipeline():
        return run(wrapper, "SELECT 1")


def notices(wrapper: Any) -> Told:
    wrapper.ensure_connection()
    heard: Told = []

    def hear(diag: Any) -> None:
        heard.append((diag.severity, diag.message_primary))

    wrapper.connection.add_notice_handler(hear)
    try:
        told = block("SELECT pg_temp.remark()")(wrapper)
    finally:
        wrapper.connection.remove_notice_handler(hear)
    return told + heard


def the_log_of_queries(wrapper: Any) -> Told:
    with CaptureQueriesContext(wrapper) as seen:
        block("SELECT 1", "SELECT 2")(wrapper)
        a_nested_block(wrapper)
    return [query["sql"] for query in seen.captured_queries]


def an_execute_wrapper(wrapper: Any) -> Told:
    told: Told = []

    def note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        told.append((sql, params, many))
        return execute(sql, params, many, context)

    with wrapper.execute_wrapper(note):
        block("SELECT 1")(wrapper)
    return told


SCENES: dict[str, Callable[[Any], Told]] = {
    "one statement": block("SELECT 1"),
    "two": block("SELECT 1 AS one", ("SELECT %s::text", ["it's; two"])),
    "types": block("SELECT 'a', NULL, 1.5, '2026-01-01'::date, ARRAY[1], '{}'::jsonb"),
    "none": block(),
    "rows": block("INSERT INTO notes (text) VALUES ('x'), ('y')", "DELETE FROM notes"),
    "returning": block("INSERT INTO notes (text) VALUES ('x') RETURNING text", "DELETE FROM notes"),
    "with": block("WITH a AS (SELECT 1) SELECT * FROM a"),
    "locking": block("SELECT text FROM notes FOR UPDATE"),
    "update": block("  update notes set text = text"),
    "an end": block("SELECT 1;"),
    "several": block("SELECT 1; SELECT 2"),
    "several, hidden": block("SELECT ';'; INSERT INTO notes VALUES (9, 'z')", "DELETE FROM notes"),
    "a comment": block("/* a comment */ SELECT 1", "SELECT 1 -- ;"),
    "the transaction": block("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT 1"),
    "a table": block("CREATE TABLE pg_temp.made ()", "DROP TABLE pg_temp.made"),
    "nothing at all": block(""),
    "fails": block("SELECT 1 / 0"),
    "fails, with a position": block("SELECT nothing FROM notes"),
    "fails, with values": block(("SELECT %s + nothing", [1])),
    "fails, by syntax": block("SELECT FROM WHERE"),
    "fails second": block("SELECT 1", "SELECT nothing"),
    "fails inside of a function": block("SELECT pg_temp.fail()"),
    "is not allowed": block("VACUUM"),
    "copies": block("COPY notes TO STDOUT"),
    "a placeholder of the server's": block("SELECT $1"),
    "blanks": block("SELECT '" + " " * 60_000 + ";', 1"),
    "a raw cursor": raw("SELECT 1"),
    "a raw cursor fails": raw("SELECT nothing"),
    **{
        scene.__name__: scene
        for scene in (
            an_error_that_is_caught,
            what_cannot_be_merged,
            the_same_cursor_later,
            what_is_rolled_back,
            a_nested_block,
            by_hand,
            with_an_isolation_level,
            many_rows,
            binary,
            a_stream,
            a_copy,
            an_iterator,
            a_pipeline,
            notices,
            the_log_of_queries,
            an_execute_wrapper,
        )
    },
}


def prepared(wrapper: Any) -> Any:
    if isinstance(wrapper, PooledDatabaseWrapperMixin):
        until_known(wrapper.pool)  # so that it asks the server nothing more
    with wrapper.cursor() as cursor:
        cursor.execute(TABLE)
        for name, body in (("fail", "PERFORM 1 / 0"), ("remark", "RAISE NOTICE 'a remark'")):
            cursor.execute(
                f"CREATE FUNCTION pg_temp.{name}() RETURNS void LANGUAGE plpgsql AS "
                f"$$ BEGIN {body}; END $$"
            )
    return wrapper


@pytest.fixture
def three(databases: Databases) -> list[Any]:
    return [prepared(databases.add(name, **entry)) for name, entry in SUBJECTS.items()]


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_a_transaction_answers_as_it_does_in_django(three: list[Any], scene: Any) -> None:
    told = [scene(wrapper) for wrapper in three]
    assert told[0] == told[1]
    assert told[0] == told[2]
    for wrapper in three:
        assert not wrapper.in_atomic_block and wrapper.get_autocommit()
        assert value(wrapper, "SELECT 1") == 1


# -- On the wire ----------------------------------------------------------------------------


def counted(wrapper: Any, scene: Callable[[Any], Any]) -> int:
    with wrapper.cursor() as cursor:
        cursor.execute(CATEGORIES)
    return round_trips(wrapper, lambda: scene(wrapper))


def nested(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias), transaction.atomic(using=wrapper.alias):
        run(wrapper, "SELECT 1")


CATEGORIES = (
    "CREATE TEMPORARY TABLE shop_category (id serial PRIMARY KEY, name text, slug text UNIQUE)"
)


def categories(wrapper: Any) -> Any:
    return Category.objects.using(wrapper.alias)


def locked(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        list(categories(wrapper).select_for_update())


def got_or_created(wrapper: Any) -> None:
    categories(wrapper).get_or_create(slug="new", defaults={"name": "new"})


def a_conflict(wrapper: Any) -> None:
    """An INSERT; BEGIN, SAVEPOINT and an INSERT that fails, ROLLBACK TO, RELEASE, COMMIT."""
    Category(name="taken", slug="taken").save(using=wrapper.alias)
    inner = transaction.atomic(using=wrapper.alias)
    with transaction.atomic(using=wrapper.alias), suppress(IntegrityError), inner:
        categories(wrapper).create(name="taken", slug="taken")


def iterated(wrapper: Any) -> None:
    list(categories(wrapper).iterator())


def iterated_in_a_block(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        list(categories(wrapper).iterator())


def a_request(wrapper: Any) -> None:
    """A view of a site with ATOMIC_REQUESTS: two queries."""
    wrapper.settings_dict["ATOMIC_REQUESTS"] = True
    try:

        def view(request: Any) -> str:
            return str([value(wrapper, "SELECT 1"), value(wrapper, "SELECT 2")])

        assert BaseHandler().make_view_atomic(view)(None) == "[1, 2]"
    finally:
        wrapper.settings_dict["ATOMIC_REQUESTS"] = False


COUNTED = [
    (locked, 3, 2),
    (got_or_created, 4, 3),  # a look; BEGIN, INSERT, COMMIT
    (a_conflict, 7, 5),
    (iterated, 4, 4),  # a server-side cursor: DECLARE, FETCH, FETCH, CLOSE
    (iterated_in_a_block, 6, 6),
    (a_request, 4, 3),
    (block(), 0, 0),
    (block("SELECT 1"), 3, 2),
    (block("SELECT 1", "SELECT 2"), 4, 3),
    (block("SELECT nothing"), 3, 2),
    (block("SELECT 1", "SELECT nothing"), 4, 3),
    (block("SELECT 1; SELECT 2"), 3, 3),
    (what_is_rolled_back, 4, 3),
    (nested, 5, 3),
    (block("CREATE TABLE pg_temp.made ()"), 3, 3),
    (a_stream, 3, 3),
    (raw("SELECT 1"), 3, 2),
]


@pytest.mark.parametrize(("scene", "before", "now"), COUNTED)
def test_how_often_the_server_is_waited_for(
    three: list[Any], scene: Any, before: int, now: int
) -> None:
    found = [counted(wrapper, scene) for wrapper in three]
    assert found == [before, before, now]


def test_parameters_that_the_server_binds_go_the_plain_way(databases: Databases) -> None:
    options = {"server_side_binding": True}
    wrapper = prepared(databases.add(pool={"max_size": 1}, options=options))
    assert counted(wrapper, block(("SELECT %s::int", [1]))) == 3


def test_where_psycopg_sends_another_way_begin_goes_alone(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.psycopg_sends_differently(monkeypatch)
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    assert counted(wrapper, block("SELECT 1")) == 3


def test_a_statement_that_could_not_be_made_keeps_no_cursor_alive(databases: Databases) -> None:
    wrapper = prepared(databases.add(pool={"max_size": 1}))
    gc.disable()
    try:
        with transaction.atomic(using=wrapper.alias):
            with wrapper.cursor() as cursor, suppress(psycopg.Error):
                cursor.cursor.execute("SELECT %s", [1, 2])  # Django's own errors would keep it
            kept = weakref.ref(cursor.cursor)
            del cursor
            assert kept() is None
    finally:
        gc.enable()


# -- What stands in between -------------------------------------------------------------------


def test_a_proxy_that_does_not_understand_is_met_with_the_plain_way(
    databases: Databases, proxy: Proxy
) -> None:
    """It refuses BEGIN in the extended protocol; the statement after it is not done twice."""
    proxy.rewrite = lambda data: data.replace(b"\0BEGIN\0\0\0", b"\0BEGIM\0\0\0")
    options = {name: text for name, text in proxy.params().items() if name in ("host", "port")}
    wrapper = databases.add(pool={"max_size": 1}, HOST=options["host"], PORT=options["port"])
    prepared(wrapper)
    insert = "INSERT INTO notes (text) VALUES (%s) RETURNING id"
    assert block((insert, ["first"]))(wrapper)[1] == [(1,)]
    assert counted(wrapper, block((insert, ["second"]))) == 3, "it is remembered"
    assert value(wrapper, "SELECT count(*) FROM notes") == 2


def test_a_connection_that_has_died_before_the_first_statement_says_why(
    three: list[Any], cluster: Server
) -> None:
    told = []
    for wrapper in three:
        told.append([])
        with told_of_errors(told[-1]), transaction.atomic(using=wrapper.alias):
            doomed = wrapper.connection.info.backend_pid
            cluster.execute("SELECT pg_terminate_backend(%s, 20000)", (doomed,))
            run(wrapper, "SELECT 1")
        wrapper.close()
    assert told[0][1] is psycopg.errors.AdminShutdown
    assert told[0][:4] == told[1][:4] == told[2][:4]


def test_a_connection_that_dies_as_a_transaction_begins_says_so(three: list[Any]) -> None:
    told = []
    for wrapper in three:
        told.append([])
        doomed = pid(wrapper)
        with told_of_errors(told[-1]), transaction.atomic(using=wrapper.alias):
            run(wrapper, "SELECT pg_terminate_backend(pg_backend_pid())")
        assert pid(wrapper) != doomed
    assert told[0][:4] == told[1][:4] == told[2][:4]


class Killed(BaseException):
    """As of a greenlet, or of a task that has run for too long."""


@pytest.mark.parametrize("release", ["auto", "transaction"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_an_interrupt_while_the_first_statement_runs_leaves_nothing_behind(
    databases: Databases, cluster: Server, error: type[BaseException], release: str
) -> None:
    """Ctrl-C has psycopg cancel the statement, so that the session goes on. Else it is closed."""
    wrapper = databases.add(pool={"max_size": 1, "release": release})
    until_known(wrapper.pool)
    first = pid(wrapper)

    def interrupt(*args: Any) -> None:
        raise error

    def is_asleep() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE %s"
        return cluster.execute(query, (first, "%pg_sleep(30)%")) == [(1,)]

    def strike() -> None:
        wait_until(is_asleep, "the statement runs")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    striking = threading.Thread(target=strike)
    striking.start()
    by_hand: Any = None
    try:
        with pytest.raises((error, DatabaseError)), transaction.atomic(using=wrapper.alias):
            by_hand = psycopg.Cursor(wrapper.connection)
            try:
                run(wrapper, "SELECT pg_sleep(30)")
            except Killed:  # what goes on all the same gets no answer to something else
                with pytest.raises(psycopg.OperationalError):
                    by_hand.execute("SELECT %s::int", [1])
                raise
    finally:
        striking.join()
        signal.signal(signal.SIGUSR1, before)
    wrapper.close_if_unusable_or_obsolete()
    assert (pid(wrapper) == first) is (error is KeyboardInterrupt)
    assert block("SELECT 1")(wrapper)[1] == [(1,)]
