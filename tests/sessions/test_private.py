"""psycopg's private names still mean what we think, and where one is missing there is a way.

What the fronts do with them is in tests/pool/real/test_cleaning.py; here is that psycopg comes by.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.string import StrDumper, TextLoader

from django_connpool import ConnectionPool
from tests import inside
from tests.cluster import Server
from tests.inside import fronts, private, twin
from tests.pool.real.helpers import until_known

WORK_MEM = "SELECT current_setting('work_mem')"
NOTHING = SimpleNamespace()  # a psycopg that has none of these names


@pytest.fixture
def conn(cluster: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        yield conn


# -- What lies in a connection's own dictionary -------------------------------------------


def test_its_autocommit_mode(conn: Any) -> None:
    assert vars(conn)[private.AUTOCOMMIT] is True
    vars(conn)[private.AUTOCOMMIT] = False
    assert conn.autocommit is False


def test_its_adapters(conn: Any) -> None:
    assert conn.adapters is vars(conn)[private.ADAPTERS]
    vars(conn)[private.ADAPTERS] = other = AdaptersMap(conn.adapters)
    assert conn.adapters is other


def test_what_begins_a_transaction(conn: Any) -> None:
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with conn.transaction():
        pass
    assert b"SERIALIZABLE" in vars(conn)[private.DERIVED]
    conn.isolation_level = None
    vars(conn)[private.DERIVED] = b"BEGIN READ ONLY"
    with conn.transaction():
        assert conn.execute("SHOW transaction_read_only").fetchone() == ("on",)


@pytest.mark.parametrize("is_pooled", [True, False])
def test_a_pools_connection_is_not_warned_of(is_pooled: bool, cluster: Server) -> None:
    conn: Any = psycopg.connect(cluster.dsn())
    if is_pooled:
        vars(conn)[private.POOL] = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del conn
        gc.collect()
    assert [one.category for one in caught] == ([] if is_pooled else [ResourceWarning])


# -- Adapters -----------------------------------------------------------------------------


def test_what_adapters_hold_is_compared(conn: Any) -> None:
    assert private.registered(AdaptersMap(conn.adapters)) == private.registered(conn.adapters)


@pytest.mark.parametrize(
    "register",
    [
        lambda adapters: adapters.register_dumper(str, type("Mine", (StrDumper,), {})),
        lambda adapters: adapters.register_dumper(None, type("Mine", (StrDumper,), {"oid": 4711})),
        lambda adapters: adapters.register_loader(4711, type("Mine", (TextLoader,), {})),
        lambda adapters: adapters.types.add(psycopg.types.TypeInfo("mine", 4711, 4712)),
    ],
    ids=["dumper", "dumper by its type", "loader", "type"],
)
def test_whatever_is_registered_is_seen(register: Callable[[Any], None], conn: Any) -> None:
    before = AdaptersMap(conn.adapters)
    register(conn.adapters)
    assert private.registered(before) != private.registered(conn.adapters)


def test_adapters_that_cannot_be_seen_are_never_the_same() -> None:
    assert private.registered(NOTHING) != private.registered(NOTHING)


# -- Prepared statements ------------------------------------------------------------------


def test_psycopg_does_not_believe_in_what_it_has_forgotten(conn: Any) -> None:
    conn.execute("SELECT 1", prepare=True)
    conn.pgconn.exec_(b"DEALLOCATE ALL")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        conn.execute("SELECT 1", prepare=True)
    assert private.forget_prepared(conn)
    conn.execute("SELECT 1", prepare=True)


def test_psycopg_does_not_remove_what_it_has_forgotten(conn: Any) -> None:
    conn.execute("SELECT 1", prepare=True)
    assert private.forget_prepared(conn)
    conn.execute("PREPARE by_hand AS SELECT 1")
    assert conn.execute("EXECUTE by_hand").fetchone() == (1,)


def test_a_psycopg_that_cannot_forget_is_not_believed(
    cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not private.forget_prepared(NOTHING)
    inside.psycopg_cannot_forget(monkeypatch)
    with ConnectionPool(cluster.dsn(), min_size=0, max_size=1) as pool:
        with pool.connection() as conn:
            before = conn.info.backend_pid
            conn.execute("PREPARE by_hand AS SELECT 1")
        with pool.connection() as conn:
            assert conn.info.backend_pid != before


def test_psycopg_tells_of_its_rollbacks(conn: Any) -> None:
    told: list[int] = []
    with private.telling_of_rollbacks(conn, lambda: told.append(1)):
        with suppress(LookupError), conn.transaction():
            raise LookupError
        assert told == [1]
        conn.autocommit = False
        conn.execute("SELECT 1")
        conn.rollback()
        assert told == [1, 1]
    conn.execute("SELECT 1")
    conn.rollback()
    assert told == [1, 1]


def test_a_psycopg_that_does_not_tell_may_have_rolled_back() -> None:
    told: list[int] = []
    with private.telling_of_rollbacks(NOTHING, lambda: told.append(1)):
        assert told == []
    assert told == [1]


# -- Pipelines and transactions -----------------------------------------------------------


def test_a_command_is_put_in_line(conn: Any) -> None:
    with conn.pipeline():
        private.put_in_line(conn, b"SET work_mem = '7MB'")
        assert conn.execute(WORK_MEM).fetchone() == ("7MB",)


def test_a_command_that_cannot_be_put_in_line_is_an_error() -> None:
    with pytest.raises(psycopg.NotSupportedError, match="SET work_mem"):
        private.put_in_line(NOTHING, b"SET work_mem = '7MB'")


def test_a_block_is_seen(conn: Any) -> None:
    assert not private.is_in_block(conn)
    with conn.transaction():
        assert private.is_in_block(conn)
        assert not private.is_in_two_phase(conn)
    assert not private.is_in_block(conn)
    conn.autocommit = False
    conn.tpc_begin(conn.xid(1, "private", "test"))
    assert private.is_in_block(conn)
    assert private.is_in_two_phase(conn)
    conn.tpc_rollback()
    assert not private.is_in_block(conn)


def test_a_block_that_cannot_be_seen_may_be_there() -> None:
    assert private.is_in_block(NOTHING)
    assert private.is_in_two_phase(NOTHING)


# -- The fronts ---------------------------------------------------------------------------


def slots_of(cursor: Any) -> dict[str, Any]:
    """All that a cursor knows, but what is an object of its own as what it is.

    And not its adapters, which the quick one makes when somebody asks for them.
    """
    made = [name for one in psycopg.Cursor.__mro__ for name in getattr(one, "__slots__", ())]
    names = [name for name in made if name not in ("__weakref__", "__dict__", "_adapters")]
    found = {name: getattr(cursor, name, "not there") for name in names}
    plain = (int, str, bytes, bool, type(None), psycopg.Connection)
    return {name: one if isinstance(one, plain) else type(one) for name, one in found.items()}


def test_what_psycopg_does_at_each_statement_is_known() -> None:
    assert fronts.is_plain(psycopg.Cursor)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_quick_cursor_is_and_does_as_psycopgs(autocommit: bool, conn: Any) -> None:
    conn.autocommit = autocommit
    cursors = [one(conn) for one in (psycopg.Cursor, inside.quick_cursor_class())]
    assert [type(one).__init__ for one in cursors] != [psycopg.Cursor.__init__] * 2
    theirs, ours = map(slots_of, cursors)
    assert theirs == ours
    for query, values in (("SELECT %s::int", [1]), ("SELECT %s::int", [2]), (WORK_MEM, [])):
        theirs, ours = ({**slots_of(one.execute(query, values))} for one in cursors)
        assert theirs == ours
        assert cursors[0].fetchall() == cursors[1].fetchall()
    for one in cursors:
        with pytest.raises(psycopg.errors.DivisionByZero):
            one.execute("SELECT 1 / 0")
        conn.rollback()
    assert slots_of(cursors[0]) == slots_of(cursors[1])
    for one in cursors:
        one.close()
        with pytest.raises(psycopg.InterfaceError, match="the cursor is closed"):
            one.execute("SELECT 1")


def shout(cursor: Any) -> list[Any]:
    """Have a cursor load and dump its own way, and see it do so."""
    cursor.execute("SELECT generate_series(1, 2)")
    found = [cursor.fetchone()]
    cursor.adapters.register_loader("int4", Loud)
    found.append(cursor.fetchone())
    cursor.execute("SELECT generate_series(1, 3)")
    found.append(cursor.fetchone())
    cursor.execute("SELECT %s::text", ["quiet"])
    found.append(cursor.fetchone())
    cursor.adapters.register_dumper(str, LoudDumper)
    cursor.execute("SELECT %s::varchar", ["loud"])
    found.append(cursor.fetchone())
    other, query = type(cursor)(cursor.connection), "SELECT %s::text"
    other.execute(query, [1])
    other.adapters.register_dumper(str, LoudDumper)
    other.execute(query, ["loud"])
    return [*found, other.fetchone(), type(other.adapters), other.description[0].type_display]


class Loud(Loader):
    def load(self, data: Any) -> str:
        return f"{int(bytes(data))}!"


class LoudDumper(StrDumper):
    def dump(self, obj: str) -> bytes:
        return f"{obj}!".encode()


def test_the_adapters_of_a_quick_cursor_are_its_own(conn: Any) -> None:
    theirs, ours = (shout(one(conn)) for one in (psycopg.Cursor, inside.quick_cursor_class()))
    assert theirs == ours
    assert theirs[2:6] == [("1!",), ("quiet",), ("loud!",), ("loud!",)]
    assert conn.execute("SELECT 1, %s::text", ["quiet"]).fetchone() == (1, "quiet")


def execute(conn: Any) -> None:
    conn.cursor().execute("SET work_mem = '7MB'")


def executemany(conn: Any) -> None:
    conn.cursor().executemany("SELECT set_config('work_mem', %s, false)", [["7MB"], ["8MB"]])


def stream(conn: Any) -> None:
    list(conn.cursor().stream("SELECT set_config('work_mem', '7MB', false)"))


def copy(conn: Any) -> None:
    with conn.cursor().copy("COPY (SELECT set_config('work_mem', '7MB', false)) TO STDOUT") as rows:
        list(rows)


def by_a_name(conn: Any) -> None:
    with conn.transaction(), conn.cursor("one") as cursor:
        cursor.execute("SELECT set_config('work_mem', '7MB', false)")
        cursor.fetchall()


def on_the_client(conn: Any) -> None:
    psycopg.ClientCursor(conn).execute("SET work_mem = '7MB'")


def by_hand(conn: Any) -> None:
    psycopg.Cursor(conn).execute("SET work_mem = '7MB'")


WAYS = [execute, executemany, stream, copy, by_a_name, on_the_client, by_hand]


@pytest.fixture
def pool(cluster: Server) -> Iterator[Any]:
    def in_autocommit(conn: Any) -> None:
        conn.autocommit = True

    with ConnectionPool(cluster.dsn(), min_size=0, max_size=1, configure=in_autocommit) as pool:
        until_known(pool)
        yield pool


@pytest.mark.parametrize("way", WAYS)
def test_psycopg_comes_by_the_fronts_with_each_statement(
    way: Callable[[Any], None], pool: Any
) -> None:
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        assert not inside.dirt_of(conn)
        way(conn)
        assert inside.dirt_of(conn) & inside.SETTINGS


@pytest.mark.parametrize("way", WAYS)
def test_psycopg_comes_by_the_fronts_while_a_session_is_born(
    way: Callable[[Any], None], cluster: Server
) -> None:
    def configure(conn: Any) -> None:
        conn.autocommit = True
        way(conn)

    with ConnectionPool(cluster.dsn(), min_size=0, max_size=1, configure=configure) as pool:
        found = []
        for _ in range(2):
            with pool.connection() as conn:
                found.append(conn.execute(WORK_MEM).fetchone()[0])
                conn.execute("SET work_mem = '9MB'")
        assert found[0] == found[1] in ("7MB", "8MB")


def test_psycopg_comes_by_with_each_error(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    met = inside.errors_met(monkeypatch)
    with pool.connection() as conn, suppress(psycopg.DataError):
        conn.execute("SELECT 1 / 0")
    assert met == [b"22012"]


STALE = {
    "execute": lambda cursor: cursor.execute("SELECT 1"),
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchmany": lambda cursor: cursor.fetchmany(1),
    "scroll": lambda cursor: cursor.scroll(1),
}


@pytest.mark.parametrize("act", STALE.values(), ids=STALE)
def test_a_named_cursor_of_an_earlier_loan_says_so(act: Callable[[Any], Any], pool: Any) -> None:
    with pool.connection() as conn:
        cursor = conn.cursor("one", withhold=True, scrollable=True)
        cursor.execute("SELECT generate_series(1, 10)")
        cursor.fetchone()
    with pool.connection():
        with pytest.raises(psycopg.OperationalError, match="given back"):
            act(cursor)
        cursor.close()  # sends nothing


def test_a_copy_of_an_earlier_loan_says_so(pool: Any) -> None:
    with pool.connection() as conn:
        cursor = conn.cursor()
    with (
        pool.connection(),
        pytest.raises(psycopg.OperationalError, match="given back"),
        cursor.copy("COPY (SELECT 1) TO STDOUT"),
    ):
        pass


# -- Async connections --------------------------------------------------------------------


def test_what_an_async_connection_is_made_with_is_found_in_its_class() -> None:
    """psycopg's `__init__` is gone by once, and not for each loan: see session/twin.py."""
    assert twin.IS_MOULDED


def test_an_async_connection_takes_what_was_notified_before(conn: Any) -> None:
    async def heard() -> list[str]:
        there = twin.twin_of(conn, None)
        return [each.payload async for each in there.notifies(timeout=5, stop_after=2)]

    conn.execute("LISTEN private")
    conn.execute("NOTIFY private, 'one'")
    conn.execute("NOTIFY private, 'two'")
    assert asyncio.run(heard()) == ["one", "two"]


def test_an_async_connection_tells_the_handlers_of_the_sync_one(conn: Any) -> None:
    heard: list[str] = []
    conn.add_notify_handler(lambda each: heard.append(each.payload))

    async def listen() -> None:
        there = twin.twin_of(conn, None)
        there.add_notify_handler(lambda each: heard.append(each.payload))
        await there.execute("NOTIFY private, 'one'")
        twin.cut_off(there)

    conn.execute("LISTEN private")
    asyncio.run(listen())
    conn.execute("NOTIFY private, 'two'")
    assert heard == ["one", "one", "two"]


def test_where_the_class_cannot_hold_it_psycopg_makes_each(
    conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin, "IS_MOULDED", False)
    heard = conn.pgconn.notice_handler, conn.pgconn.notify_handler

    async def ask() -> Any:
        there = twin.twin_of(conn, None)
        try:
            return await (await there.execute("SELECT 1")).fetchone()
        finally:
            twin.cut_off(there)

    assert asyncio.run(ask()) == (1,)
    assert (conn.pgconn.notice_handler, conn.pgconn.notify_handler) == heard


def test_what_psycopg_prepares_elsewhere_is_not_prepared(conn: Any) -> None:
    there = twin.twin_of(conn, None)
    prepared = vars(conn).pop("_prepared")
    private.share(conn, there)
    assert there.prepare_threshold is None
    vars(conn)["_prepared"] = prepared


def test_only_psycopgs_connections_have_an_async_one() -> None:
    with pytest.raises(TypeError, match="is not psycopg's"):
        twin.twin_of(NOTHING, None)
