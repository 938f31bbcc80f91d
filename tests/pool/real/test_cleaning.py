from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from django_connpool import ConnectionPool
from tests import inside
from tests.cluster import Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import (
    Borrower,
    pid,
    pids_of,
    until,
    until_idle,
    until_known,
    until_waiting,
)
from tests.proxy import Proxy

Logged = Callable[[str], list[str]]
WORK_MEM = "SELECT current_setting('work_mem')"
DIRTY = "SET work_mem = '7MB'"


def in_autocommit(conn: Any) -> None:
    """A `configure` callback."""
    conn.autocommit = True


@pytest.fixture(autouse=True, params=["psycopg as it is", "psycopg of another make"])
def _psycopg(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here is true of a psycopg whose cursors begin in a way that nobody foresaw."""
    if request.param == "psycopg as it is":
        yield
        return
    with inside.unknown_psycopg():
        yield


@pytest.fixture
def pool(make_pool: MakePool) -> ConnectionPool[Any]:
    pool = make_pool(max_size=1, configure=in_autocommit)
    until_known(pool)  # else all is cleaned
    return pool


def make_dirty(pool: ConnectionPool[Any], statement: str = DIRTY) -> int:
    with pool.connection() as conn:
        conn.execute(statement)
        return pid(conn)


def work_mem(pool: ConnectionPool[Any]) -> str:
    with pool.connection() as conn:
        (value,) = conn.execute(WORK_MEM).fetchone()
        return str(value)


def undone_by(monkeypatch: pytest.MonkeyPatch, statement: bytes) -> None:
    """Have every clean-up run this as well."""
    inside.undo_by_this_too(monkeypatch, statement)


class Wire:
    """The messages that one connection sends, as libpq traces them."""

    def __init__(self, conn: psycopg.Connection[Any], path: Path) -> None:
        self._file = path.open("w+b")
        conn.pgconn.trace(self._file.fileno())
        self._seen = 0
        self._path = path

    def sent(self) -> list[str]:
        """The kinds of messages sent since the last call."""
        lines = self._path.read_text().splitlines()
        new, self._seen = lines[self._seen :], len(lines)
        return [line.split("\t")[3] for line in new if "\tF\t" in line]

    def close(self) -> None:
        self._file.close()


def test_a_clean_loan_sends_nothing_of_its_own(pool: ConnectionPool[Any], tmp_path: Path) -> None:
    with pool.connection() as conn:
        wire = Wire(conn, tmp_path / "trace")
    wire.sent()
    for _ in range(3):
        conn = pool.getconn()
        assert wire.sent() == []
        conn.execute("SELECT 1")
        assert wire.sent() == ["Query"]
        pool.putconn(conn)
        assert wire.sent() == []
    conn.pgconn.untrace()
    wire.close()


def test_a_dirty_loan_sends_one_message_when_it_ends_and_none_later(
    pool: ConnectionPool[Any], tmp_path: Path
) -> None:
    conn = pool.getconn()
    wire = Wire(conn, tmp_path / "trace")
    conn.execute(DIRTY)
    assert wire.sent() == ["Query"]
    pool.putconn(conn)
    assert wire.sent() == ["Query"]
    assert pool.getconn() is conn
    assert wire.sent() == []
    assert conn.execute(WORK_MEM).fetchone() == ("4MB",)
    pool.putconn(conn)
    conn.pgconn.untrace()
    wire.close()


def test_nobody_waits_for_a_clean_up_when_giving_back(make_pool: MakePool, proxy: Proxy) -> None:
    pool = make_pool(proxy.dsn(), max_size=2)
    until_known(pool)
    first, second = pool.getconn(), pool.getconn()
    first.execute(DIRTY)
    first.commit()
    proxy.blackhole()  # whoever waited for an answer would hang
    pool.putconn(second)
    pool.putconn(first)
    assert pool.snapshot()["idle"] == 2
    # And who is in a hurry gets the one that is clean, though the other was given back last.
    assert pool.getconn() is second
    proxy.allow()
    pool.putconn(second)


def test_the_only_connection_is_waited_for_until_it_is_clean(
    make_pool: MakePool, proxy: Proxy
) -> None:
    pool = make_pool(proxy.dsn(), max_size=1)
    before = make_dirty(pool)
    until_idle(pool, 1)
    conn = pool.getconn()
    conn.execute(DIRTY)
    conn.commit()
    proxy.blackhole()
    pool.putconn(conn)
    borrower = Borrower(pool)
    until(lambda: pool.snapshot()["idle"] == 0)
    assert borrower.conn is None
    proxy.allow()
    assert borrower.got() == before
    assert borrower.conn.execute(WORK_MEM).fetchone() == ("4MB",)
    borrower.give_back()


def test_those_in_line_get_a_clean_session_too(pool: ConnectionPool[Any]) -> None:
    conn = pool.getconn()
    conn.execute(DIRTY)
    borrower = Borrower(pool)
    until_waiting(pool, 1)
    pool.putconn(conn)
    assert borrower.got() == pid(conn)
    assert borrower.conn.execute(WORK_MEM).fetchone() == ("4MB",)
    borrower.give_back()


def test_a_session_that_cannot_be_cleaned_is_replaced(
    pool: ConnectionPool[Any], monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    undone_by(monkeypatch, b"SELECT 1 / 0")
    before = make_dirty(pool)
    assert work_mem(pool) == "4MB"
    assert pids_of(pool, 1) != [before]
    assert logged("could not be cleaned")


def test_that_one_cannot_be_cleaned_says_nothing_of_the_others(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(max_size=2, configure=in_autocommit)
    until_known(pool)
    with pool.connection() as other, pool.connection() as conn:
        undone_by(monkeypatch, b"SELECT 1 / 0")
        conn.execute(DIRTY)
        survivor = pid(other)
    pool.check()
    until(lambda: pool.snapshot()["closed_for"])
    assert pool.snapshot()["closed_for"] == {"unclean": 1}
    assert survivor in pids_of(pool, 2)


def test_a_clean_up_that_takes_too_long_is_not_waited_for(
    pool: ConnectionPool[Any],
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
    backends: Callable[[], int],
) -> None:
    undone_by(monkeypatch, b"SELECT pg_sleep(600)")
    inside.tune(monkeypatch, clean_patience=0.2)
    before = make_dirty(pool)
    assert pids_of(pool, 1) != [before]
    assert logged("it took more than 0.2 s")
    until(lambda: backends() == 1)


def test_a_clean_up_that_takes_too_long_is_ended_though_nobody_borrows(
    pool: ConnectionPool[Any],
    monkeypatch: pytest.MonkeyPatch,
    backends: Callable[[], int],
) -> None:
    undone_by(monkeypatch, b"SELECT pg_sleep(600)")
    inside.tune(monkeypatch, clean_timeout=0.2)
    make_dirty(pool)
    until(lambda: backends() == 0)
    until(lambda: pool.snapshot()["closed_for"] == {"unclean": 1})


def test_a_clean_up_that_nobody_came_for_is_taken_in_time(
    pool: ConnectionPool[Any], monkeypatch: pytest.MonkeyPatch, cluster: Server
) -> None:
    before = make_dirty(pool)
    (slot,) = inside.slots(pool)
    until(lambda: inside.has_answer(slot))
    # Then it was all sent: there is nothing more that the server would do before it waits.
    waits = "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = %s"
    until(lambda: cluster.execute(waits, [before]) == [(True,)])
    inside.tune(monkeypatch, clean_timeout=0.0)
    inside.wake_maintenance()
    until(lambda: not inside.is_being_cleaned(slot))
    assert pids_of(pool, 1) == [before]


def test_a_session_that_dies_while_it_is_cleaned_costs_no_request(
    pool: ConnectionPool[Any], cluster: Server
) -> None:
    before = make_dirty(pool)
    cluster.terminate(before)
    assert work_mem(pool) == "4MB"


def test_checking_takes_the_outcome_of_a_clean_up(pool: ConnectionPool[Any]) -> None:
    before = make_dirty(pool)
    pool.check()
    (slot,) = inside.slots(pool)
    assert not inside.is_being_cleaned(slot)
    assert pids_of(pool, 1) == [before]


def test_closing_does_not_wait_for_clean_ups(
    pool: ConnectionPool[Any], backends: Callable[[], int]
) -> None:
    make_dirty(pool)
    pool.close()
    until(lambda: backends() == 0)


def test_what_configure_set_is_there_again(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        conn.execute("SELECT set_config('work_mem', %s, false)", ["9MB"])
        conn.execute("CREATE TEMP TABLE mine AS SELECT 1 AS x")
        conn.execute("LISTEN mine")

    pool = make_pool(max_size=1, configure=configure)
    before = pids_of(pool, 1)
    for statement in (DIRTY, "DROP TABLE mine", "INSERT INTO mine VALUES (2)", "UNLISTEN *"):
        make_dirty(pool, statement)
        with pool.connection() as conn:
            assert conn.execute(WORK_MEM).fetchone() == ("9MB",)
            assert conn.execute("SELECT x FROM mine").fetchall() == [(1,)]
            assert conn.execute("SELECT pg_listening_channels()").fetchall() == [("mine",)]
    assert pids_of(pool, 1) == before


@pytest.mark.parametrize("how", ["executemany", "copy", "raw"])
def test_a_session_born_in_a_way_that_cannot_be_repeated_is_replaced(
    how: str, make_pool: MakePool
) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        cursor = conn.cursor()
        if how == "raw":
            cursor.execute("SELECT set_config($1, $2, false)", ["work_mem", "9MB"])
        elif how == "executemany":
            values = [("work_mem", "8MB"), ("work_mem", "9MB")]
            cursor.executemany("SELECT set_config(%s, %s, false)", values)
        else:
            with cursor.copy("COPY (SELECT set_config('work_mem', '9MB', false)) TO STDOUT") as c:
                list(c)

    kwargs = {"cursor_factory": psycopg.RawCursor} if how == "raw" else {}
    pool = make_pool(max_size=1, configure=configure, kwargs=kwargs)
    until_known(pool)  # until then it is replaced whatever was done
    before = make_dirty(pool, "SELECT 1")
    assert pids_of(pool, 1) == [before]
    make_dirty(pool)
    assert work_mem(pool) == "9MB"
    assert pids_of(pool, 1) != [before]


@pytest.mark.parametrize("copied", [False, True])
def test_rows_that_configure_put_in_a_temporary_table_are_there_again(
    copied: bool, make_pool: MakePool
) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        conn.execute("CREATE TEMP TABLE mine (x int)")
        conn.execute("INSERT INTO mine VALUES (%s)", [1])
        if copied:
            with conn.cursor().copy("COPY mine FROM STDIN") as copy:
                copy.write_row([2])

    pool = make_pool(max_size=1, configure=configure)
    before = make_dirty(pool, "DELETE FROM mine")
    with pool.connection() as conn:
        rows = conn.execute("SELECT x FROM mine").fetchall()
    assert rows == ([(1,), (2,)] if copied else [(1,)])
    assert (pids_of(pool, 1) == [before]) is not copied


def rolled_back(conn: Any) -> None:
    conn.autocommit = False
    conn.execute("SET work_mem = '9MB'")
    conn.rollback()
    conn.autocommit = True


def rolled_back_in_a_block(conn: Any) -> None:
    with suppress(ZeroDivisionError), conn.transaction():
        conn.execute("SET work_mem = '9MB'")
        raise ZeroDivisionError


def rolled_back_by_hand(conn: Any) -> None:
    conn.execute("BEGIN")
    conn.execute("SET work_mem = '9MB'")
    conn.execute("ROLLBACK")


@pytest.mark.parametrize("step", [rolled_back, rolled_back_in_a_block, rolled_back_by_hand])
def test_what_configure_rolled_back_is_not_there_after_a_clean_up(
    step: Callable[[Any], None], make_pool: MakePool
) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        step(conn)

    pool = make_pool(max_size=1, configure=configure)
    make_dirty(pool)
    assert work_mem(pool) == "4MB"


def test_what_configure_tried_in_vain_does_not_fail_the_clean_up(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        conn.execute("SET work_mem = '9MB'")
        with pytest.raises(psycopg.Error):
            conn.execute("SET setting_of_postgresql_30 = 'x'")

    pool = make_pool(max_size=1, configure=configure)
    before = make_dirty(pool)
    assert work_mem(pool) == "9MB"
    assert pids_of(pool, 1) == [before]


def test_a_lock_that_configure_took_is_there_again(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        conn.execute("SELECT pg_advisory_lock(815)")

    pool = make_pool(max_size=1, configure=configure)
    before = make_dirty(pool, "SELECT pg_advisory_unlock(815)")
    with pool.connection() as conn:
        locks = "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
        assert conn.execute(locks, [before]).fetchall() == [(815,)]


def test_a_session_born_past_the_watch_is_replaced_when_it_gets_dirty(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        in_autocommit(conn)
        psycopg.ClientCursor(conn).execute("SET work_mem = '9MB'")

    pool = make_pool(max_size=1, configure=configure)
    until_known(pool)  # until then it is replaced whatever was done
    before = make_dirty(pool, "SELECT 1")
    assert pids_of(pool, 1) == [before]
    make_dirty(pool)
    assert work_mem(pool) == "9MB"
    assert pids_of(pool, 1) != [before]


def test_a_setting_that_changed_with_the_configuration_is_cleaned_after_once(
    make_pool: MakePool, throwaway_cluster: Server
) -> None:
    pool = make_pool(throwaway_cluster.dsn(), max_size=1, configure=in_autocommit)
    make_dirty(pool, "CREATE TABLE t (x int)")
    until_known(pool)  # or it is cleaned in any case
    throwaway_cluster.execute("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'")
    throwaway_cluster.execute("SELECT pg_reload_conf()")

    (slot,) = inside.slots(pool)

    def zone() -> bytes:
        make_dirty(pool, "SELECT 1")
        return inside.pgconn_of(slot).parameter_status(b"TimeZone")

    until(lambda: zone() == b"Asia/Tokyo")
    cleaned = []
    for _ in range(3):
        make_dirty(pool, "INSERT INTO t VALUES (1)")
        cleaned.append(inside.is_being_cleaned(slot))
    assert cleaned == [True, False, False]
    make_dirty(pool, "DO $$ BEGIN SET TimeZone = 'UTC'; END $$")
    assert zone() == b"Asia/Tokyo"


def test_what_psycopg_has_prepared_outlives_a_clean_up(pool: ConnectionPool[Any]) -> None:
    with pool.connection() as conn:
        conn.execute("SELECT %s::int", [1], prepare=True)
        conn.execute(DIRTY)
    with pool.connection() as conn:
        conn.execute("SELECT %s::int", [1])
        count = "SELECT count(*) FROM pg_prepared_statements"
        assert conn.execute(count, prepare=False).fetchone() == (1,)


@pytest.fixture
def two_things(cluster: Server) -> Iterator[None]:
    """Two tables of one name, which have different columns."""
    cluster.execute("CREATE SCHEMA names")
    cluster.execute("CREATE TABLE names.spam (other text)")
    cluster.execute("CREATE TABLE spam (x int)")
    yield
    cluster.execute("DROP TABLE spam")
    cluster.execute("DROP SCHEMA names CASCADE")


@pytest.mark.parametrize(
    "renaming",
    [
        "SET search_path TO names",
        "SET LOCAL search_path TO names",
        "SELECT set_config('search_path', 'names', true)",
        "CREATE TEMP TABLE spam AS SELECT 'a' AS other",
        "CREATE TEMP TABLE spam ON COMMIT DROP AS SELECT 'a' AS other",
    ],
)
@pytest.mark.usefixtures("two_things")
def test_what_psycopg_has_prepared_under_other_names_is_not_the_next_borrowers(
    renaming: str, pool: ConnectionPool[Any]
) -> None:
    with pool.connection() as conn, conn.transaction():
        conn.execute(renaming)
        conn.execute("SELECT * FROM spam", prepare=True)
    with pool.connection() as conn:
        cursor = conn.execute("SELECT * FROM spam", prepare=True)
        assert [column.name for column in cursor.description] == ["x"]


def test_local_names_need_no_clean_up_where_psycopg_prepares_nothing(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, kwargs={"prepare_threshold": None})
    until_known(pool)
    make_dirty(pool, "SET LOCAL search_path TO names")
    (slot,) = inside.slots(pool)
    assert not inside.is_being_cleaned(slot)


def test_psycopg_forgets_what_a_clean_up_has_deallocated(
    pool: ConnectionPool[Any], tmp_path: Path
) -> None:
    with pool.connection() as conn:
        conn.execute("SELECT %s::int", [1], prepare=True)
        conn.execute("PREPARE theirs AS SELECT 1")
    with pool.connection() as conn:
        wire = Wire(conn, tmp_path / "trace")
        assert conn.execute("SELECT %s::int", [1], prepare=True).fetchone() == (1,)
        assert "Query" not in wire.sent()  # nothing is deallocated a second time
        names = conn.execute("SELECT name FROM pg_prepared_statements").fetchall()
        assert len(names) == 1 and names[0][0].startswith("_pg3_")
        conn.pgconn.untrace()
        wire.close()


def test_a_cursor_of_an_earlier_loan_cannot_reach_the_session(pool: ConnectionPool[Any]) -> None:
    conn = pool.getconn()
    used, unused, named = conn.cursor(), conn.cursor(), conn.cursor("named", withhold=True)
    used.execute("SELECT generate_series(1, 3)")
    named.execute("SELECT generate_series(1, 300)")
    pool.putconn(conn)
    again = pool.getconn()
    assert again is conn
    again.execute("SELECT 1")
    assert used.fetchone() == (1,)  # what it has read already is its own
    for act in (
        lambda: used.execute("SELECT 1"),
        lambda: unused.execute("SELECT 1"),
        lambda: unused.copy("COPY (SELECT 1) TO STDOUT").__enter__(),
        lambda: list(unused.stream("SELECT 1")),
        named.fetchone,
        lambda: named.scroll(1),
    ):
        with pytest.raises(psycopg.OperationalError, match="given back to its pool"):
            act()
    named.close()
    assert again.execute("SELECT 1").fetchone() == (1,)
    pool.putconn(again)


def test_a_cursor_of_an_earlier_loan_does_not_count_against_the_next_borrower(
    pool: ConnectionPool[Any],
) -> None:
    conn = pool.getconn()
    plain, named = conn.cursor(), conn.cursor("named", withhold=True)
    pool.putconn(conn)
    again = pool.getconn()
    dirty = "SELECT pg_advisory_lock(1)"
    for act in (
        lambda: plain.execute(dirty),
        lambda: plain.copy(f"COPY ({dirty}) TO STDOUT").__enter__(),
        lambda: named.execute(dirty),
    ):
        with pytest.raises(psycopg.OperationalError, match="given back to its pool"):
            act()
    (slot,) = inside.slots(pool)
    assert inside.is_forgotten(slot)
    named.close()
    pool.putconn(again)


def test_a_named_cursor_closed_in_time_leaves_nothing_to_clean(pool: ConnectionPool[Any]) -> None:
    with pool.connection() as conn, conn.cursor("c", withhold=True) as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        cursor.fetchone()
    (slot,) = inside.slots(pool)
    assert not inside.is_being_cleaned(slot)


def test_a_named_cursor_that_psycopg_could_not_close_is_closed(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        cursor = conn.cursor("c", withhold=True)
        cursor.execute("SELECT generate_series(1, 300)")
        conn.commit()
        with pytest.raises(psycopg.Error):
            conn.execute("nonsense")
        cursor.close()
        conn.rollback()
    with pool.connection() as conn:
        assert conn.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)


def test_sequences_are_forgotten_for_whoever_asks_and_kept_for_their_user(
    pool: ConnectionPool[Any],
) -> None:
    with pool.connection() as conn:
        conn.execute("CREATE TEMP SEQUENCE s; SELECT 1")
        conn.execute("SELECT nextval('s')")
        assert conn.execute("SELECT lastval()").fetchone() == (1,)
    with pool.connection() as conn, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        conn.execute("SELECT lastval()")


def test_sequences_are_forgotten_for_whoever_asks_in_a_pipeline(pool: ConnectionPool[Any]) -> None:
    conn = pool.getconn()
    conn.pgconn.exec_(b"CREATE TEMP SEQUENCE s")
    conn.pgconn.exec_(b"SELECT nextval('s')")  # unseen, as that of an earlier INSERT is
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState), conn.pipeline():
        conn.execute("SELECT lastval()").fetchone()
    with conn.pipeline():
        conn.execute("SELECT nextval('s')")
        assert conn.execute("SELECT lastval()").fetchone() == (2,)
    pool.putconn(conn)


def test_a_function_finds_nothing_of_the_sequences_of_the_last_borrower(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        conn.execute("CREATE SEQUENCE read_by_a_function")
        conn.execute(
            "CREATE FUNCTION what_came_last() RETURNS bigint LANGUAGE plpgsql "
            "AS $$ BEGIN RETURN lastval(); END $$"
        )
    until_known(pool)
    with pool.connection() as conn:
        conn.execute("SELECT nextval('read_by_a_function')")
        conn.execute("SET work_mem = '7MB'")  # so that the session is cleaned
    with pool.connection() as conn, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        conn.execute("SELECT what_came_last()")
    with pool.connection() as conn:
        conn.execute("DROP FUNCTION what_came_last()")
        conn.execute("DROP SEQUENCE read_by_a_function")


def test_notifications_that_one_borrower_did_not_read_no_other_reads(
    pool: ConnectionPool[Any],
) -> None:
    with pool.connection() as conn:
        conn.execute("LISTEN gossip")
        conn.execute("NOTIFY gossip, 'unread'")
        conn.execute("SELECT 1")
    with pool.connection() as conn:
        conn.execute("LISTEN gossip")
        conn.execute("NOTIFY gossip, 'own'")
        heard = conn.notifies(timeout=10, stop_after=1)
        assert [notify.payload for notify in heard] == ["own"]


def test_factories_and_handlers_are_put_back(pool: ConnectionPool[Any]) -> None:
    with pool.connection() as conn:
        conn.row_factory = dict_row
        conn.add_notice_handler(print)
        conn.prepare_threshold = 1
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert conn._notice_handlers == []
        assert conn.prepare_threshold == 5


def test_a_transaction_left_open_is_named_with_its_last_statement(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=1, describe=lambda: "GET /basket")
    conn = pool.getconn()
    conn.execute("SELECT 'a value' AS culprit")
    pool.putconn(conn)
    (line,) = logged("in a transaction")
    assert threading.current_thread().name in line
    assert "GET /basket" in line
    assert "after: SELECT ? AS culprit;" in line


def test_strict_raises_when_a_transaction_is_left_open_and_keeps_the_connection(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1, strict=True)
    conn = pool.getconn()
    conn.execute("SELECT 'a value' AS culprit")
    with pytest.raises(psycopg.ProgrammingError, match=r"after: SELECT \? AS culprit;"):
        pool.putconn(conn)
    assert pids_of(pool, 1) == [pid(conn)]
    assert pool.snapshot()["idle"] == 1


def test_a_dropped_connection_is_noticed_though_it_is_watched(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    conn.execute("SELECT 1")
    del conn
    with pool.connection(timeout=15) as conn:
        conn.execute("SELECT 1")
    assert pool.get_stats()["loans_reclaimed"] == 1
