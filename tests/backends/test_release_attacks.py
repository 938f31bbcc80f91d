"""`release: "transaction"` when backends die, tests and tasks run, and connections are closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, ClassVar

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import InterfaceError, OperationalError
from django.test import TestCase, TransactionTestCase
from psycopg.types.json import Jsonb

import django_connpool
from shop.models import Category
from tests.cluster import Server
from tests.databases import DEADLINE, Databases, in_hand, in_thread, in_threads, on_loan, pid, value

STOCK = "django.db.backends.postgresql"
POOLED = "django_connpool.backends.postgresql"
POOL = {"max_size": 2, "release": "transaction", "timeout": 10}
ENGINES = [pytest.param((STOCK, None), id="stock"), pytest.param((POOLED, POOL), id="early")]


@pytest.fixture
def early(databases: Databases) -> Any:
    return databases.add("attacked", pool=POOL)


@pytest.fixture
def attacked(cluster: Server) -> Iterator[None]:
    cluster.execute("DROP TABLE IF EXISTS attacked")
    cluster.execute("CREATE TABLE attacked (id int)")
    yield
    cluster.execute("DROP TABLE attacked")


def held(wrapper: Any) -> bool:
    has = in_hand(wrapper) is not None
    assert on_loan(wrapper) == has
    return has


def is_whole(wrapper: Any) -> bool:
    """Whether nothing is on loan, and all connections that there may be can be borrowed."""
    if held(wrapper):
        return False
    pool = wrapper.pool
    with ExitStack() as stack:
        backends = {
            stack.enter_context(pool.connection()).info.backend_pid for _ in range(pool.max_size)
        }
        return len(backends) == pool.get_stats()["pool_size"] == pool.max_size


def kill(server: Server, wrapper: Any) -> None:
    """End the wrapper's backends, lent or not."""
    name = wrapper.settings_dict["OPTIONS"]["application_name"]
    assert server.terminate(application_name=name) > 0


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error).__name__


# -- A backend that is killed, outside a transaction ------------------------------------------


def test_killed_before_the_first_statement_of_a_request(early: Any, cluster: Server) -> None:
    value(early, "SELECT 1")
    early.close()
    kill(cluster, early)
    assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def test_killed_between_two_statements_no_error_is_seen(early: Any, cluster: Server) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        first = pid(early)
        kill(cluster, early)
        assert cursor.fetchall() == [(2,), (3,)]
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() != (first,)
    assert early.errors_occurred is False
    assert is_whole(early)


def test_killed_by_the_statement_itself_the_next_of_the_same_cursor_works(early: Any) -> None:
    with early.cursor() as cursor:
        for _ in range(3):
            with pytest.raises(OperationalError):
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert not held(early)
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
    assert is_whole(early)


def test_killed_before_a_block_begins_no_error_is_seen(early: Any, cluster: Server) -> None:
    value(early, "SELECT 1")
    kill(cluster, early)
    with transaction.atomic(using=early.alias):
        assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def test_killed_before_a_hook_of_on_commit_it_works_all_the_same(
    early: Any, cluster: Server
) -> None:
    seen: list[int] = []

    def hook() -> None:
        kill(cluster, early)
        seen.append(value(early, "SELECT 1"))

    with transaction.atomic(using=early.alias):
        value(early, "SELECT 1")
        for _ in range(2):
            transaction.on_commit(hook, using=early.alias)
    assert seen == [1, 1]
    assert is_whole(early)


def test_killed_with_a_piecewise_cursor_half_read(early: Any, cluster: Server) -> None:
    with early.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        assert cursor.fetchmany(2) == [(1,), (2,)]
        kill(cluster, early)
        with pytest.raises(OperationalError):
            cursor.fetchmany(2)
    assert not held(early)
    assert value(early, "SELECT 1") == 1
    assert is_whole(early)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # psycopg's close() fails half-way
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_with_a_piecewise_cursor_half_read_that_is_not_read_on(
    early: Any, cluster: Server
) -> None:
    with early.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        cursor.fetchmany(2)
        kill(cluster, early)
    assert not held(early)
    assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def test_killed_with_one_of_two_piecewise_cursors_read_to_its_end(
    early: Any, cluster: Server
) -> None:
    with early.chunked_cursor() as first, early.chunked_cursor() as second:
        for cursor in (first, second):
            cursor.execute("SELECT generate_series(1, 3)")
        assert len(first.fetchall()) == 3
        kill(cluster, early)
        with pytest.raises(OperationalError):
            second.fetchall()
        assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def read_a_copy(cursor: Any, rows: str, then: Callable[[], None]) -> None:
    with cursor.copy(f"COPY ({rows}) TO STDOUT") as copy:
        copy.read()
        then()
        for _ in copy:
            pass


def read_a_stream(cursor: Any, rows: str, then: Callable[[], None]) -> None:
    stream = cursor.stream(rows)
    next(stream)
    then()
    for _ in stream:
        pass


def write_a_copy(cursor: Any, rows: str, then: Callable[[], None]) -> None:
    with cursor.copy("COPY attacked FROM STDIN") as copy:
        copy.write_row((1,))
        then()


@pytest.mark.parametrize("work", [read_a_copy, read_a_stream, write_a_copy])
def test_killed_in_the_middle_of_a_copy_or_a_stream(
    early: Any, cluster: Server, attacked: None, work: Callable[..., None]
) -> None:
    rows = "SELECT repeat('x', 1000) FROM generate_series(1, 20000)"
    with early.cursor() as cursor:
        with pytest.raises(psycopg.OperationalError):
            work(cursor, rows, lambda: kill(cluster, early))
        assert early.kept == 0
        assert not held(early)
        cursor.execute("SELECT count(*) FROM attacked")
        assert cursor.fetchone() == (0,)
    assert is_whole(early)


def test_killed_while_it_is_kept_by_a_setting_one_error_is_seen(
    early: Any, cluster: Server
) -> None:
    early.cursor().execute("SET app.tenant = '42'")
    assert held(early)
    kill(cluster, early)
    with pytest.raises(OperationalError):
        value(early, "SELECT 1")
    assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def test_killed_while_it_is_kept_by_a_setting_the_request_ends_in_peace(
    early: Any, cluster: Server
) -> None:
    early.cursor().execute("SET app.tenant = '42'")
    kill(cluster, early)
    early.close_if_unusable_or_obsolete()
    assert not held(early)
    assert value(early, "SELECT current_setting('app.tenant', true)") is None
    assert is_whole(early)


def test_killed_in_a_pinned_block_one_error_is_seen_and_the_pin_holds(
    early: Any, cluster: Server
) -> None:
    with django_connpool.pinned(early.alias):
        value(early, "SELECT 1")
        kill(cluster, early)
        with pytest.raises(OperationalError):
            value(early, "SELECT 1")
        first = pid(early)
        assert held(early)
        assert pid(early) == first
    assert is_whole(early)


# -- A backend that is killed in a transaction: as with Django --------------------------------

SCENES: dict[str, Callable[..., Any]] = {}


def scene(function: Callable[..., Any]) -> Callable[..., Any]:
    SCENES[function.__name__] = function
    return function


def insert(wrapper: Any, number: int) -> Any:
    return value(wrapper, "INSERT INTO attacked VALUES (%s) RETURNING id", [number])


@scene
def at_the_first_statement(wrapper: Any, die: Callable[[], None]) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            die()
            insert(wrapper, 1)

    return outcome(block)


@scene
def between_two_statements(wrapper: Any, die: Callable[[], None]) -> Any:
    seen: list[Any] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            transaction.on_commit(lambda: seen.append("committed"), using=wrapper.alias)
            insert(wrapper, 1)
            die()
            seen.extend(outcome(lambda: insert(wrapper, 2)) for _ in range(3))
            insert(wrapper, 3)

    return outcome(block), seen


@scene
def between_two_statements_of_one_cursor(wrapper: Any, die: Callable[[], None]) -> Any:
    seen: list[Any] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
            cursor.execute("INSERT INTO attacked VALUES (1)")
            die()
            insertion = "INSERT INTO attacked VALUES (2)"
            seen.extend(outcome(lambda: cursor.execute(insertion)) for _ in range(3))

    return outcome(block), seen


@scene
def with_the_error_swallowed(wrapper: Any, die: Callable[[], None]) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            die()
            with suppress(DatabaseError):
                insert(wrapper, 2)

    return outcome(block)


@scene
def in_a_savepoint(wrapper: Any, die: Callable[[], None]) -> Any:
    seen: list[Any] = []

    def inner() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 2)
            die()
            insert(wrapper, 3)

    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            seen.append(outcome(inner))
            seen.append(wrapper.needs_rollback)
            seen.append(outcome(lambda: insert(wrapper, 4)))

    return outcome(block), seen


@scene
def before_a_savepoint_is_released(wrapper: Any, die: Callable[[], None]) -> Any:
    def inner() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 2)
            die()

    def block() -> Any:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            return outcome(inner), wrapper.needs_rollback

    return outcome(block)


@scene
def before_a_savepoint_begins(wrapper: Any, die: Callable[[], None]) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            die()
            with transaction.atomic(using=wrapper.alias):
                insert(wrapper, 2)

    return outcome(block)


@scene
def before_the_commit(wrapper: Any, die: Callable[[], None]) -> Any:
    seen: list[Any] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias, durable=True):
            transaction.on_commit(lambda: seen.append("committed"), using=wrapper.alias)
            insert(wrapper, 1)
            die()

    return outcome(block), seen


@scene
def before_the_rollback(wrapper: Any, die: Callable[[], None]) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            die()
            raise ZeroDivisionError

    return outcome(block)


@scene
def with_a_piecewise_cursor_half_read(wrapper: Any, die: Callable[[], None]) -> Any:
    seen: list[Any] = []

    def block() -> None:
        with transaction.atomic(using=wrapper.alias), wrapper.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 300)")
            seen.append(cursor.fetchmany(2))
            die()
            seen.append(outcome(lambda: cursor.fetchmany(2)))
            insert(wrapper, 1)

    return outcome(block), seen


@scene
def with_autocommit_switched_off(wrapper: Any, die: Callable[[], None]) -> Any:
    wrapper.set_autocommit(False)
    insert(wrapper, 1)
    die()
    seen = [outcome(lambda: insert(wrapper, 2)) for _ in range(2)]
    seen.append(outcome(wrapper.commit))
    seen.append(outcome(wrapper.rollback))
    wrapper.close()
    return seen


@scene
def in_a_block_with_autocommit_switched_off(wrapper: Any, die: Callable[[], None]) -> Any:
    def block() -> None:
        with transaction.atomic(using=wrapper.alias):
            insert(wrapper, 1)
            die()
            insert(wrapper, 2)

    wrapper.set_autocommit(False)
    seen = [outcome(block), outcome(lambda: insert(wrapper, 3)), outcome(wrapper.commit)]
    wrapper.close()
    return seen


@pytest.mark.parametrize("name", SCENES)
def test_killed_in_a_transaction_is_as_with_django(
    name: str, databases: Databases, cluster: Server, attacked: None
) -> None:
    seen = []
    for engine, pool in ((STOCK, None), (POOLED, POOL)):
        wrapper = databases.add(engine=engine, pool=pool)
        seen.append(SCENES[name](wrapper, lambda wrapper=wrapper: kill(cluster, wrapper)))
        assert value(wrapper, "SELECT count(*) FROM attacked") == 0
        assert wrapper.in_atomic_block is wrapper.needs_rollback is False
        assert wrapper.get_autocommit() is True
        if pool:
            assert is_whole(wrapper)
        databases.remove()
    assert seen[1] == seen[0]


def test_killed_in_a_transaction_without_autocommit_nothing_is_committed_by_halves(
    databases: Databases, cluster: Server, attacked: None
) -> None:
    seen = []
    for engine, pool in ((STOCK, None), (POOLED, POOL)):
        wrapper = databases.add(engine=engine, pool=pool, AUTOCOMMIT=False)
        insert(wrapper, 1)
        kill(cluster, wrapper)
        steps = [lambda w=wrapper: insert(w, 2), lambda w=wrapper: insert(w, 3), wrapper.commit]
        seen.append([outcome(step) for step in steps])
        wrapper.close()
        assert cluster.execute("SELECT id FROM attacked") == []
        assert value(wrapper, "SELECT 1") == 1
        wrapper.rollback()
        if pool:
            assert is_whole(wrapper)
        wrapper.close()
        databases.remove()
    assert seen[1] == seen[0]


# -- Tests of users, and the ORM, on the site's own database ----------------------------------


@pytest.fixture
def site(transactional_db: None) -> Iterator[Any]:
    """The wrapper of the test database `default`, giving back early; it is empty."""
    wrapper: Any = connections["default"]
    before = wrapper.settings_dict["OPTIONS"]
    wrapper.close()
    wrapper.close_pool()
    wrapper.settings_dict["OPTIONS"] = {**before, "pool": POOL}
    try:
        yield wrapper
    finally:
        wrapper.close()
        wrapper.close_pool()
        wrapper.settings_dict["OPTIONS"] = before


@pytest.fixture
def category(site: Any) -> Category:
    return Category.objects.create(name="Books", slug="books")


def run_anyhow(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


def run(case: type[unittest.TestCase]) -> unittest.TestResult:
    """Run a test class as Django's own runner would; all of it must pass."""
    result = run_anyhow(case)
    problems = [text for _, text in result.errors + result.failures]
    assert not problems, problems[0]
    return result


def add(name: str) -> Category:
    return Category.objects.create(name=name, slug=name)


def names() -> list[str]:
    return list(Category.objects.values_list("name", flat=True))


def backend() -> int:
    return pid(connections["default"])


def cases_in_a_transaction() -> type[TestCase]:
    class Tests(TestCase):
        backends: ClassVar[set[int]] = set()

        @classmethod
        def setUpTestData(cls) -> None:
            cls.shared = add("shared")
            cls.backends = {backend()}

        def setUp(self) -> None:
            add("set up")

        def check(self) -> None:
            self.assertEqual(names(), ["set up", "shared"])
            self.shared.name = "shared and changed"
            self.shared.save()
            with transaction.atomic():
                add("inner")
                with suppress(ZeroDivisionError), transaction.atomic():
                    add("lost")
                    raise ZeroDivisionError
            self.assertEqual(names(), ["inner", "set up", "shared and changed"])
            self.assertEqual(in_thread(names), [])
            self.backends.add(backend())
            self.assertEqual(len(self.backends), 1)

        def test_1(self) -> None:
            self.check()

        def test_2(self) -> None:
            self.check()

        def test_a_request_is_in_the_transaction_of_the_test(self) -> None:
            found = self.client.get("/in_transaction/").json()
            self.assertEqual(found, {"atomic": True, "pid": backend()})
            self.assertEqual(names(), ["set up", "shared"])

        def test_hooks_run_when_they_are_asked_for(self) -> None:
            seen: list[Any] = []
            with self.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
                add("hooked")
                transaction.on_commit(lambda: seen.append((names(), backend())))
            self.assertEqual(len(callbacks), 1)
            self.assertEqual(seen, [(["hooked", "set up", "shared"], backend())])
            with self.captureOnCommitCallbacks() as callbacks:
                transaction.on_commit(lambda: seen.append("never"))
            self.assertEqual((len(callbacks), len(seen)), (1, 1))

        def test_an_error_of_the_database_leaves_the_test_usable(self) -> None:
            with self.assertRaises(DatabaseError), transaction.atomic():
                add("shared")
            self.assertEqual(names(), ["set up", "shared"])

        def test_an_iterator_is_read_in_the_transaction(self) -> None:
            found = [(each.name, backend()) for each in Category.objects.iterator(chunk_size=1)]
            self.assertEqual(found, [("set up", backend()), ("shared", backend())])

        def test_a_setting_1_is_there_until_the_test_ends(self) -> None:
            connections["default"].cursor().execute("SET app.tenant = '42'")
            self.assertEqual(value(connections["default"], "SHOW app.tenant"), "42")

        def test_a_setting_2_is_gone_with_the_test(self) -> None:
            query = "SELECT coalesce(current_setting('app.tenant', true), '')"
            self.assertEqual(value(connections["default"], query), "")

    return Tests


def cases_to_be_flushed() -> type[TransactionTestCase]:
    class Tests(TransactionTestCase):
        def check(self) -> None:
            self.assertEqual(names(), [])
            seen: list[Any] = []
            with transaction.atomic():
                transaction.on_commit(lambda: seen.append(in_thread(names)))
                add("written")
                first = backend()
                with transaction.atomic():
                    self.assertEqual(backend(), first)
                self.assertEqual(in_thread(names), [])
            self.assertEqual(seen, [["written"]])
            self.assertFalse(held(connections["default"]))
            self.assertFalse(self.client.get("/in_transaction/").json()["atomic"])

        def test_1(self) -> None:
            self.check()

        def test_2(self) -> None:
            self.check()

        def test_what_a_thread_has_written_is_flushed_too(self) -> None:
            self.assertEqual(names(), [])
            in_thread(lambda: add("written"))
            self.assertEqual(names(), ["written"])

    return Tests


def test_a_test_case_is_one_transaction_of_one_backend_and_leaves_nothing(site: Any) -> None:
    assert run(cases_in_a_transaction()).testsRun == 8
    assert names() == []
    assert is_whole(site)


def test_a_transaction_test_case_is_flushed(site: Any) -> None:
    assert run(cases_to_be_flushed()).testsRun == 3
    assert names() == []
    assert is_whole(site)


def test_test_cases_of_both_kinds_one_after_the_other(site: Any) -> None:
    for cases in (
        cases_to_be_flushed,
        cases_in_a_transaction,
        cases_to_be_flushed,
    ):
        run(cases())
    assert names() == []
    assert is_whole(site)


def test_a_test_case_whose_backend_is_killed_spoils_no_other(site: Any, cluster: Server) -> None:
    class Tests(TestCase):
        def test_1(self) -> None:
            add("lost")
            cluster.terminate(backend())
            self.assertRaises(OperationalError, names)

    run_anyhow(Tests)
    assert names() == []
    run(cases_in_a_transaction())
    assert is_whole(site)


# -- Locks on rows ----------------------------------------------------------------------------


def test_a_row_that_is_locked_in_a_block_is_locked_for_others_until_it_ends(
    category: Category, site: Any
) -> None:
    def lock(**how: bool) -> list[str]:
        with transaction.atomic():
            return [row.name for row in Category.objects.select_for_update(**how)]

    with transaction.atomic():
        Category.objects.select_for_update().get()
        Category.objects.count()  # a statement after it does not give the lock up
        with transaction.atomic():
            assert in_thread(lambda: lock(skip_locked=True)) == []
        with pytest.raises(OperationalError, match="could not obtain lock"):
            in_thread(lambda: lock(nowait=True))
        assert lock() == ["Books"]
    assert in_thread(lambda: lock(nowait=True)) == ["Books"]
    assert is_whole(site)


def test_two_threads_that_wait_for_each_others_row_change_it_one_after_the_other(
    category: Category, site: Any
) -> None:
    def append() -> None:
        for _ in range(10):
            with transaction.atomic():
                row = Category.objects.select_for_update().get()
                row.name += "x"
                row.save()

    in_threads([append] * 2)
    assert names() == ["Books" + 20 * "x"]
    assert is_whole(site)


def test_locking_a_row_outside_a_block_is_refused_as_by_django(
    category: Category, site: Any
) -> None:
    for _ in range(2):
        with pytest.raises(TransactionManagementError, match="select_for_update"):
            list(Category.objects.select_for_update())
        assert not held(site)
    assert names() == ["Books"]


# -- Closed in the middle of something: as with Django ----------------------------------------


def is_refused(call: Callable[[], Any]) -> bool:
    """Whether it fails. By which error differs between Django's versions."""
    try:
        call()
    except (DatabaseError, InterfaceError):
        return True
    return False


def close(wrapper: Any) -> None:
    wrapper.close()


def close_all(wrapper: Any) -> None:
    connections.close_all()


closing = pytest.mark.parametrize("shut", [close, close_all])


@pytest.fixture(params=ENGINES)
def either(request: pytest.FixtureRequest, databases: Databases, attacked: None) -> Any:
    engine, pool = request.param
    return databases.add(engine=engine, pool=pool)


def is_fine(wrapper: Any) -> bool:
    """Whether nothing is left of what was done to it."""
    assert wrapper.in_atomic_block is False
    assert wrapper.get_autocommit() is True
    with transaction.atomic(using=wrapper.alias):
        assert insert(wrapper, 99) == 99
        transaction.set_rollback(True, using=wrapper.alias)
    return getattr(wrapper, "pool", None) is None or is_whole(wrapper)


@closing
def test_closed_between_statements(either: Any, shut: Callable[[Any], None]) -> None:
    for number in range(3):
        insert(either, number)
        shut(either)
        shut(either)
    assert value(either, "SELECT count(*) FROM attacked") == 3
    assert is_fine(either)


@closing
def test_closed_with_a_cursor_open_its_rows_are_there(
    either: Any, shut: Callable[[Any], None]
) -> None:
    with either.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        shut(either)
        assert value(either, "SELECT 1") == 1
        assert cursor.fetchall() == [(2,), (3,)]
    assert is_fine(either)


@closing
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_closed_with_a_piecewise_cursor_half_read_the_rest_is_lost(
    either: Any, shut: Callable[[Any], None]
) -> None:
    with either.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        assert cursor.fetchmany(2) == [(1,), (2,)]
        shut(either)
        assert is_refused(lambda: cursor.fetchmany(2))
        assert value(either, "SELECT count(*) FROM pg_cursors") == 0
        assert is_refused(lambda: cursor.fetchmany(2))
    assert is_fine(either)


@closing
def test_closed_in_the_middle_of_an_iterator_of_another_loan(
    either: Any, shut: Callable[[Any], None]
) -> None:
    with either.chunked_cursor() as old:
        old.execute("SELECT generate_series(1, 300)")
        shut(either)
        with either.chunked_cursor() as new:
            new.execute("SELECT generate_series(1, 3)")
            assert new.fetchone() == (1,)
            old.close()
            assert new.fetchall() == [(2,), (3,)]
    assert is_fine(either)


@closing
def test_closed_in_the_middle_of_a_stream_the_rest_is_lost(
    either: Any, shut: Callable[[Any], None]
) -> None:
    with either.cursor() as cursor:
        rows = cursor.stream("SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        next(rows)
        shut(either)
        with suppress(psycopg.Error):
            assert len(list(rows)) < 19_999
        assert value(either, "SELECT 1") == 1
    assert is_fine(either)


@closing
def test_closed_in_a_block_nothing_more_happens_and_nothing_is_committed(
    either: Any, shut: Callable[[Any], None]
) -> None:
    seen: list[str] = []
    with transaction.atomic(using=either.alias), either.cursor() as cursor:
        transaction.on_commit(lambda: seen.append("committed"), using=either.alias)
        insert(either, 1)
        cursor.execute("SELECT 1")
        shut(either)
        assert is_refused(lambda: insert(either, 2))
        assert is_refused(lambda: cursor.execute("INSERT INTO attacked VALUES (3)"))
        shut(either)
        assert is_refused(lambda: insert(either, 4))
    assert seen == []
    assert value(either, "SELECT count(*) FROM attacked") == 0
    assert is_fine(either)


@closing
def test_closed_in_a_savepoint_the_outer_block_is_over_too(
    either: Any, shut: Callable[[Any], None]
) -> None:
    def inner() -> None:
        with transaction.atomic(using=either.alias):
            insert(either, 2)
            shut(either)

    with transaction.atomic(using=either.alias):
        insert(either, 1)
        with suppress(DatabaseError, InterfaceError):
            inner()
        assert is_refused(lambda: insert(either, 3))
        assert is_refused(lambda: transaction.atomic(using=either.alias)(insert)(either, 4))
    assert value(either, "SELECT count(*) FROM attacked") == 0
    assert is_fine(either)


@closing
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_closed_in_a_block_with_a_piecewise_cursor_half_read(
    either: Any, shut: Callable[[Any], None]
) -> None:
    with transaction.atomic(using=either.alias), either.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        cursor.fetchone()
        shut(either)
        assert is_refused(cursor.fetchall)
    assert is_fine(either)


@closing
def test_closed_in_a_hook_of_on_commit_the_other_hooks_run(
    either: Any, shut: Callable[[Any], None]
) -> None:
    seen: list[int] = []
    with transaction.atomic(using=either.alias):
        insert(either, 1)
        transaction.on_commit(lambda: shut(either), using=either.alias)
        transaction.on_commit(
            lambda: seen.append(value(either, "SELECT count(*) FROM attacked")), using=either.alias
        )
    assert seen == [1]
    assert is_fine(either)


@closing
def test_closed_with_autocommit_switched_off_it_is_on_afterwards(
    either: Any, shut: Callable[[Any], None]
) -> None:
    either.set_autocommit(False)
    insert(either, 1)
    shut(either)
    assert value(either, "SELECT count(*) FROM attacked") == 0
    assert is_fine(either)


def test_a_cursor_that_outlives_its_connection_goes_on_by_another(early: Any) -> None:
    with early.cursor() as cursor:
        cursor.execute("SELECT 1")
        early.close()
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)
        assert not held(early)
    assert is_whole(early)


# -- What several threads and tasks do at once ------------------------------------------------


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """Run them as tasks at the same time, each in a thread of its own."""

    async def main() -> list[Any]:
        tasks = (sync_to_async(work, thread_sensitive=False)() for work in works)
        return await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)

    return asyncio.run(main())


def test_two_tasks_in_a_block_each_have_a_backend_of_their_own(early: Any) -> None:
    both = threading.Barrier(2, timeout=DEADLINE)

    def work() -> tuple[int, int]:
        mine = connections[early.alias]
        with transaction.atomic(using=early.alias):
            first = pid(mine)
            both.wait()
            return first, pid(mine)

    (first, again), (second, and_again) = together([work] * 2)
    assert first == again != second == and_again
    assert is_whole(early)


def test_two_tasks_in_one_thread_take_turns_with_one_connection(databases: Databases) -> None:
    early = databases.add("attacked", pool={**POOL, "max_size": 1})

    def insert_and_count(number: int) -> int:
        mine = connections[early.alias]
        with transaction.atomic(using=early.alias):
            mine.cursor().execute(f"SET LOCAL app.tenant = {number}")
            return int(value(mine, "SHOW app.tenant"))

    async def task(number: int) -> list[int]:
        async with django_connpool.scope(f"task {number}"):
            return [await sync_to_async(insert_and_count)(number) for _ in range(5)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(task(1), task(2))

    assert asyncio.run(main()) == [[1] * 5, [2] * 5]
    assert is_whole(early)


def test_a_task_that_is_cancelled_in_a_block_leaves_nothing(early: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with transaction.atomic(using=early.alias):
            pid(connections[early.alias])
            begun.set()
            assert go_on.wait(DEADLINE)

    async def main() -> None:
        task = asyncio.create_task(sync_to_async(work)())
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        task.cancel()
        go_on.set()
        with suppress(asyncio.CancelledError):
            await task
        await sync_to_async(lambda: None)()  # after it, in the same thread

    asyncio.run(main())
    assert is_whole(early)


def test_a_setting_of_one_task_goes_with_its_scope_while_another_works(early: Any) -> None:
    def set_it() -> None:
        connections[early.alias].cursor().execute("SET app.tenant = '42'")

    def tenant() -> Any:
        return value(
            connections[early.alias], "SELECT coalesce(current_setting('app.tenant', true), '')"
        )

    async def first() -> Any:
        async with django_connpool.scope("first"):
            await sync_to_async(set_it)()
            return await sync_to_async(tenant)()

    async def second() -> list[Any]:
        async with django_connpool.scope("second"):
            seen = [await sync_to_async(tenant, thread_sensitive=False)() for _ in range(3)]
        return seen

    async def main() -> Any:
        seen = await asyncio.gather(first(), second())
        return seen, on_loan(early), await sync_to_async(tenant)()

    assert asyncio.run(main()) == (["42", ["", "", ""]], 0, "")
    assert is_whole(early)


def test_the_asynchronous_orm_gives_back_between_its_statements(site: Any) -> None:
    async def main() -> tuple[list[str], int]:
        for name in "abc":
            await Category.objects.acreate(name=name, slug=name)
            assert on_loan(site) == 0
        found = [row.name async for row in Category.objects.all()]
        found += [row.name async for row in Category.objects.aiterator(chunk_size=1)]
        return found, on_loan(site)

    assert asyncio.run(main()) == (["a", "b", "c"] * 2, 0)
    assert is_whole(site)


def test_an_asynchronous_iterator_that_is_not_read_to_its_end_keeps_nothing(site: Any) -> None:
    async def main() -> tuple[str, int]:
        async for row in Category.objects.aiterator(chunk_size=1):
            return row.name, on_loan(site)
        raise AssertionError("there are rows")

    for name in "abc":
        add(name)
    # Once: psycopg waits for itself when such a cursor is collected during the next statement.
    assert asyncio.run(main()) == ("a", 1)
    gc.collect()  # in a thread that is not its own, so that its own finds that it is closed
    assert asyncio.run(sync_to_async(names)()) == ["a", "b", "c"]
    assert names() == ["a", "b", "c"]
    assert is_whole(site)


def at_once(call: Callable[[], None]) -> None:
    call()


@pytest.mark.parametrize("somewhere", [at_once, in_thread])
def test_a_cursor_that_is_closed_takes_no_connection_from_under_a_statement(
    early: Any, somewhere: Callable[[Callable[[], None]], None]
) -> None:
    lent: list[int] = []
    other = early.cursor()

    def dumps(data: Any) -> str:
        # As the garbage collector does, at any time and in any thread.
        somewhere(other.close)
        lent.append(on_loan(early))
        return str(data)

    with early.cursor() as cursor:
        cursor.execute("SELECT %s", [Jsonb(1, dumps=dumps)])
        assert lent == [1]
    assert is_whole(early)


def test_what_a_piecewise_cursor_kept_that_another_thread_closes_goes_with_the_next_statement(
    early: Any,
) -> None:
    """Its thread may be about to begin one, so that the other cannot give back in its stead."""
    cursor = early.chunked_cursor()
    cursor.execute("SELECT generate_series(1, 300)")
    in_thread(cursor.close)
    assert on_loan(early) == 1
    assert value(early, "SELECT 1") == 1
    assert is_whole(early)


def test_threads_that_share_a_wrapper_take_no_connection_from_each_other(early: Any) -> None:
    early.inc_thread_sharing()
    try:
        first = pid(early)
        works = [lambda: {pid(early) for _ in range(100)}] * 4
        assert in_threads(works) == [{first}] * 4
        assert on_loan(early) == 1
    finally:
        early.dec_thread_sharing()
    assert is_whole(early)


def test_a_wrapper_that_is_shared_twice_is_shared_until_both_have_ended(early: Any) -> None:
    early.inc_thread_sharing()
    early.inc_thread_sharing()
    first = pid(early)
    early.dec_thread_sharing()
    assert held(early)
    assert in_thread(lambda: pid(early)) == first
    early.dec_thread_sharing()
    assert is_whole(early)


def test_a_shared_wrapper_in_a_block_is_given_back_when_the_block_ends(early: Any) -> None:
    with transaction.atomic(using=early.alias):
        early.inc_thread_sharing()
        first = pid(early)
        assert in_thread(lambda: pid(early)) == first
        early.dec_thread_sharing()
        assert held(early)
    assert is_whole(early)
