"""Engines that speak PostgreSQL's language in part. A stand-in, as tests/engines.py says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.cluster import Server
from tests.engines import SYNTAX, UNDEFINED, UNSUPPORTED, Engine
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import pid, pids_of, served, until, until_known
from tests.proxy import Proxy

Logged = Callable[[str], list[str]]
MakeEngine = Callable[..., Engine]
AUTOCOMMIT = {"autocommit": True}

NO_LOCKS = {"pg_advisory": (UNSUPPORTED, "advisory locks are not yet implemented")}
NO_CHANNELS = {"LISTEN": (UNSUPPORTED, "unimplemented: this syntax")}
NO_DISCARD = {"DISCARD": (SYNTAX, "syntax error at or near DISCARD")}
NO_CATALOG = {"pg_depend": (UNDEFINED, "unknown function")}


@pytest.fixture
def engine(cluster: Server) -> Iterator[MakeEngine]:
    """A function that starts a stand-in which does not know some statements."""
    with ExitStack() as stack:
        yield lambda unknown, untold="": stack.enter_context(Engine(cluster, unknown, untold))


def learned(pool: Any, logged: Logged) -> None:
    """Have the pool clean sessions until it has found out what cannot be asked for."""

    def is_known() -> bool:
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        return bool(logged("does not know"))

    until(is_known)


@pytest.mark.parametrize("unknown", [NO_LOCKS, NO_CHANNELS, NO_DISCARD, NO_LOCKS | NO_CHANNELS])
def test_what_an_engine_does_not_know_is_left_out_of_what_cleans(
    make_pool: MakePool, engine: MakeEngine, logged: Logged, unknown: dict[str, Any]
) -> None:
    one = engine(unknown)
    pool = make_pool(one.dsn(), kwargs=AUTOCOMMIT, max_size=1, reset="always")
    learned(pool, logged)
    kept = pids_of(pool, 1)
    for _ in range(5):
        with pool.connection() as conn:
            assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
            conn.execute("SET search_path = pg_catalog")
            assert [pid(conn)] == kept
    assert len(logged("does not know")) == 1


def test_what_was_set_up_is_there_while_that_is_found_out(
    make_pool: MakePool, engine: MakeEngine, logged: Logged
) -> None:
    def configure(conn: Any) -> None:
        conn.execute("SET ROLE pg_monitor")
        conn.execute("SET timezone = 'Asia/Tokyo'")

    pool = make_pool(
        engine(NO_LOCKS).dsn(),
        kwargs=AUTOCOMMIT,
        max_size=1,
        reset="always",
        configure=configure,
    )

    def is_known() -> bool:
        with pool.connection() as conn:
            assert conn.execute("SELECT current_user::text").fetchone() == ("pg_monitor",)
            assert conn.execute("SHOW timezone").fetchone() == ("Asia/Tokyo",)
            return bool(logged("does not know"))

    until(is_known)


def test_a_session_with_what_cannot_be_undone_is_replaced(
    make_pool: MakePool, engine: MakeEngine, logged: Logged
) -> None:
    pool = make_pool(engine(NO_DISCARD).dsn(), kwargs=AUTOCOMMIT, max_size=1, reset="always")
    learned(pool, logged)
    with pool.connection() as conn:
        conn.execute("CREATE TEMP TABLE passing (id int)")
        before = pid(conn)
    assert pids_of(pool, 1) != [before]


def test_without_its_settings_to_be_reset_a_session_is_served_once(
    make_pool: MakePool, engine: MakeEngine
) -> None:
    pool = make_pool(
        engine({"RESET ALL": (UNSUPPORTED, "no")}).dsn(), kwargs=AUTOCOMMIT, max_size=1
    )
    for _ in range(3):
        with pool.connection() as conn:
            assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
            conn.execute("SET search_path = pg_catalog")


def test_an_engine_that_does_not_tell_of_its_functions_is_worked_with(
    make_pool: MakePool, engine: MakeEngine, logged: Logged
) -> None:
    pool = make_pool(engine(NO_CATALOG | NO_LOCKS).dsn(), kwargs=AUTOCOMMIT, max_size=1)
    learned(pool, logged)
    until(lambda: served(pool) and logged("refused with 42883"))
    kept = pids_of(pool, 1)
    for _ in range(5):
        assert pids_of(pool, 1) == kept


@pytest.mark.parametrize("untold", ["K", "S", "KS"])
def test_an_engine_that_says_nothing_of_its_processes_and_settings(
    make_pool: MakePool, engine: MakeEngine, untold: str
) -> None:
    one = engine({}, untold)
    pool = make_pool(one.dsn(client_encoding="UTF8"), kwargs=AUTOCOMMIT, max_size=2)
    until_known(pool)
    for _ in range(3):
        with pool.connection() as conn:
            conn.execute("SET search_path = pg_catalog")
        with pool.connection() as conn:
            assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
    pool.check()
    assert pool.snapshot()["idle"]


def test_an_error_that_says_to_try_again_is_the_borrowers(
    make_pool: MakePool, engine: MakeEngine
) -> None:
    one = engine({"INSERT": ("40001", "restart transaction: write too old")})
    pool = make_pool(one.dsn(), max_size=1)
    until_known(pool)
    before = pids_of(pool, 1)
    for _ in range(3):
        with pytest.raises(psycopg.errors.SerializationFailure), pool.connection() as conn:
            conn.execute("INSERT INTO nowhere VALUES (1)")
    assert pids_of(pool, 1) == before
    assert sum("INSERT" in text for text in one.asked) == 3


def test_a_node_that_drains_by_closing_costs_no_borrower(
    make_pool: MakePool, cluster: Server
) -> None:
    with Proxy(cluster) as node:
        pool = make_pool(node.dsn(), kwargs=AUTOCOMMIT, max_size=3)
        pids_of(pool, 3)
        for _ in range(3):
            node.drop()
            until(lambda: node.pumps == 0)
            with pool.connection() as conn:
                assert conn.execute("SELECT 7").fetchone() == (7,)
