"""Behind PgBouncer, in each of its modes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from django_connpool import ConnectionPool
from tests import bouncer
from tests.bouncer import PgBouncer
from tests.cluster import Cluster, Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import until_known

pytestmark = [pytest.mark.e2e, bouncer.wanted]

Logged = Callable[[str], list[str]]
AUTOCOMMIT = {"autocommit": True}

# What stays in a session when its transaction is over.
LASTING = [
    "SET search_path = pg_catalog",
    "SET SESSION work_mem = '1MB'",
    "SET timezone = 'UTC'; SET work_mem = '1MB'",
    "SELECT set_config('app.tenant', '7', false)",
    "SELECT set_config('timezone', 'UTC', false), set_config('app.tenant', '7', false)",
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION DEFAULT",
    "LISTEN somebody",
    "SELECT pg_advisory_lock(1)",
    "PREPARE one AS SELECT 1",
    "CREATE TEMPORARY TABLE passing (id int)",
    "CREATE TABLE pg_temp.passing (id int)",
    "LOAD 'plpgsql'",
    "SELECT setseed(0.5)",
]
PASSING = [
    "SELECT 1",
    "SET LOCAL work_mem = '1MB'",
    "SELECT set_config('app.tenant', '7', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "CREATE TEMPORARY TABLE passing (id int) ON COMMIT DROP",
    "DECLARE passing CURSOR FOR SELECT 1",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
    "SET DateStyle = 'German'",
    "SET application_name = 'somebody'",
    "DO $$ BEGIN END $$",
    "CREATE TABLE IF NOT EXISTS lasting (id int)",
    "SELECT 'a; set search_path = x', 1 -- pg_advisory_lock",
    "SELECT $a$; LISTEN somebody; $a$ /* set_config('a', 'b', false) */",
    "CREATE OR REPLACE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_advisory_lock(1); PERFORM set_config('a.b', 'c', false);"
    " CREATE TEMP TABLE passing (id int); END $$",
    "EXPLAIN SELECT 1",
    "ALTER TABLE IF EXISTS nowhere ADD COLUMN id int",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL IMMEDIATE",
]


@pytest.fixture(scope="module")
def behind() -> Iterator[Callable[[str], PgBouncer]]:
    """A function that returns a PgBouncer of a mode, before a server of this module's own."""
    started: dict[str, PgBouncer] = {}
    with Cluster() as cluster:

        def start(mode: str) -> PgBouncer:
            if mode not in started:
                started[mode] = PgBouncer(cluster, mode).__enter__()
            return started[mode]

        yield start
        for each in started.values():
            each.__exit__()


@pytest.fixture
def shared(behind: Callable[[str], PgBouncer], make_pool: MakePool) -> ConnectionPool[Any]:
    """A pool behind one in transaction mode, which says so."""
    dsn = behind("transaction").dsn()
    return make_pool(dsn, behind="pgbouncer", kwargs=AUTOCOMMIT)


def everybody(pool: ConnectionPool[Any], count: int, work: Callable[[Any], None]) -> None:
    """Have so many threads do some work with a connection each, again and again."""

    def run() -> None:
        for _ in range(20):
            with pool.connection(60) as conn:
                work(conn)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def leaks(pool: ConnectionPool[Any]) -> int:
    """How many of those who set nothing find what others have set."""
    found: list[str] = []

    def work(conn: Any) -> None:
        path = conn.execute("SHOW search_path").fetchone()[0]
        if path != '"$user", public':
            found.append(path)
        try:
            conn.execute("SET search_path = pg_catalog")
        except psycopg.NotSupportedError:
            with conn.transaction():
                conn.execute("SET LOCAL search_path = pg_catalog")

    everybody(pool, 6, work)
    return len(found)


def test_what_strangers_set_is_found_where_nobody_has_said_what_stands_there(
    behind: Callable[[str], PgBouncer], make_pool: MakePool, shared: ConnectionPool[Any]
) -> None:
    with PgBouncer.of(behind("transaction")) as one:
        assert leaks(make_pool(one.dsn(), max_size=6, kwargs=AUTOCOMMIT))
    with PgBouncer.of(behind("transaction")) as one:
        said = make_pool(one.dsn(), max_size=6, behind="pgbouncer", kwargs=AUTOCOMMIT)
        assert leaks(said) == 0


@pytest.mark.parametrize("statement", LASTING)
def test_what_outlasts_its_transaction_is_refused_before_it_is_sent(
    shared: ConnectionPool[Any], statement: str
) -> None:
    with shared.connection() as conn:
        with pytest.raises(psycopg.NotSupportedError, match="pooler"):
            conn.execute(statement)
        with pytest.raises(psycopg.NotSupportedError, match="pooler"), conn.transaction():
            conn.execute(statement)
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("statement", PASSING)
def test_what_ends_with_its_transaction_or_is_the_clients_own_is_not(
    shared: ConnectionPool[Any], statement: str
) -> None:
    with shared.connection() as conn, conn.transaction():
        conn.execute(statement)


def test_a_cursor_that_outlasts_its_transaction_is_refused(shared: ConnectionPool[Any]) -> None:
    with shared.connection() as conn:
        with (
            conn.cursor("rows", withhold=True) as cursor,
            pytest.raises(psycopg.NotSupportedError, match="DISABLE_SERVER_SIDE_CURSORS"),
        ):
            cursor.execute("SELECT 1")
        with conn.transaction(), conn.cursor("rows") as cursor:
            assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_what_the_pooler_keeps_for_each_client_is_as_it_was_for_the_next(
    shared: ConnectionPool[Any], app: str
) -> None:
    until_known(shared)

    def seen(conn: Any) -> list[Any]:
        names = ("TimeZone", "DateStyle", "application_name", "client_encoding")
        return [conn.execute(f"SHOW {name}").fetchone()[0] for name in names]

    with shared.connection() as conn:
        before = seen(conn)
        conn.execute("SET timezone = 'Asia/Tokyo'")
        conn.execute("SET DateStyle = 'German'")
        conn.execute("SET application_name = 'somebody'")
        pid = conn.info.backend_pid
        assert seen(conn) != before
    with shared.connection() as conn:
        assert conn.info.backend_pid == pid
        assert seen(conn) == before
        assert before[2] == app


def test_in_session_mode_a_cleaned_session_is_as_its_client_has_asked_for(
    behind: Callable[[str], PgBouncer], make_pool: MakePool, app: str
) -> None:
    dsn = behind("session").dsn(client_encoding="LATIN1")
    pool = make_pool(dsn, max_size=1, behind="server", kwargs=AUTOCOMMIT)
    with pool.connection() as conn:
        conn.execute("SET search_path = pg_catalog")
        pid = conn.info.backend_pid
    with pool.connection() as conn:
        assert conn.info.backend_pid == pid
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert conn.execute("SHOW application_name").fetchone() == (app,)
        assert conn.execute("SHOW client_encoding").fetchone() == ("LATIN1",)


@pytest.mark.parametrize("mode", bouncer.MODES)
def test_a_pooler_is_recognised_and_said_once_to_who_has_said_nothing_of_it(
    behind: Callable[[str], PgBouncer], make_pool: MakePool, logged: Logged, mode: str
) -> None:
    dsn = behind(mode).dsn()
    for said, lines in (("server", 0), ("pgbouncer", 0), ("auto", 1)):
        pool = make_pool(dsn, kwargs=AUTOCOMMIT, behind=said)
        with pool.connection(), pool.connection(), pool.connection():
            pass
        assert len(logged("a pooler seems to stand")) == lines


def test_a_server_is_no_pooler(make_pool: MakePool, cluster: Server, logged: Logged) -> None:
    pool = make_pool(cluster.dsn())
    with pool.connection(), pool.connection():
        pass
    assert not logged("pooler")


def test_a_time_limit_is_not_sent_to_who_refuses_it(
    behind: Callable[[str], PgBouncer], make_pool: MakePool
) -> None:
    dsn = behind("transaction").dsn()
    with make_pool(dsn, behind="pgbouncer", command_timeout=5.0).connection() as conn:
        conn.execute("SELECT 1")
    pool = make_pool(dsn, command_timeout=5.0)
    with pytest.raises(psycopg.OperationalError, match="behind"):
        pool.getconn()


def test_nothing_is_prepared_where_another_session_would_not_know_it(
    shared: ConnectionPool[Any],
) -> None:
    def work(conn: Any) -> None:
        for _ in range(8):
            conn.execute("SELECT %s::int", [1])

    everybody(shared, 4, work)


def test_a_transaction_in_statement_mode_fails_in_the_poolers_own_words(
    behind: Callable[[str], PgBouncer], make_pool: MakePool
) -> None:
    pool = make_pool(behind("statement").dsn(), behind="pgbouncer", timeout=5)
    with pytest.raises(psycopg.Error, match="statement pooling mode"), pool.connection() as conn:
        conn.execute("SELECT 1")


def test_a_pooler_that_is_restarted_costs_no_request(
    behind: Callable[[str], PgBouncer], make_pool: MakePool
) -> None:
    with PgBouncer.of(behind("transaction")) as one:
        pool = make_pool(one.dsn(), behind="pgbouncer", kwargs=AUTOCOMMIT)
        with pool.connection(), pool.connection():
            pass
        one.restart()
        for _ in range(5):
            with pool.connection() as conn:
                conn.execute("SELECT 1")
