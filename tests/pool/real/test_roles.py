"""A server that turns read-only under its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests import inside
from tests.cluster import Cluster
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import pid, pids_of, until
from tests.standby import Primary

Logged = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as started:
        started.execute("CREATE TABLE written (id bigserial)")
        yield started


def becomes(server: Cluster, read_only: str) -> None:
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {read_only}")
    server.execute("SELECT pg_reload_conf()")
    until(lambda: server.execute("SHOW default_transaction_read_only") == [(read_only,)])


@pytest.fixture
def turn(server: Cluster) -> Iterator[Callable[[], None]]:
    """A function that makes the server read-only, until the test ends."""
    yield lambda: becomes(server, "on")
    becomes(server, "off")


def write(conn: Any) -> None:
    conn.execute("INSERT INTO written DEFAULT VALUES")


def write_in_vain(conn: Any) -> None:
    """Write until the session has heard of the change, which it does with some statement."""

    def is_refused() -> bool:
        try:
            write(conn)
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
        return False

    until(is_refused)
    conn.rollback()


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_first_refused_write_condemns_all_that_are_open(
    make_pool: MakePool,
    server: Cluster,
    turn: Callable[[], None],
    logged: Logged,
    autocommit: bool,
) -> None:
    pool = make_pool(server.dsn(), max_size=3, kwargs={"autocommit": autocommit})
    before = pids_of(pool, 3)
    conn, other = pool.getconn(), pool.getconn()
    turn()
    write_in_vain(conn)
    assert pool.snapshot()["idle"] == 0
    for one in (conn, other):
        pool.putconn(one)
    after = pids_of(pool, 3)
    assert not set(before) & set(after)
    assert len(logged("read-only")) == 1
    # Those are as the server is: their refusals condemn nothing.
    with pool.connection() as conn:
        write_in_vain(conn)
    assert set(pids_of(pool, 3)) == set(after)


def test_a_borrower_who_asked_for_it_condemns_nothing(
    make_pool: MakePool, server: Cluster, logged: Logged
) -> None:
    pool = make_pool(server.dsn(), max_size=2)
    before = pids_of(pool, 2)
    with pool.connection() as conn:
        conn.read_only = True
        write_in_vain(conn)
    with pool.connection() as conn:
        conn.execute("SET TRANSACTION READ ONLY")
        write_in_vain(conn)
    assert set(pids_of(pool, 2)) == set(before)
    assert not logged("read-only")


def test_a_borrower_who_has_set_it_condemns_its_own_only(
    make_pool: MakePool, server: Cluster, logged: Logged
) -> None:
    pool = make_pool(server.dsn(), max_size=2, kwargs={"autocommit": True})
    before = pids_of(pool, 2)
    with pool.connection() as conn:
        conn.execute("SET default_transaction_read_only = on")
        write_in_vain(conn)
        own = pid(conn)
    after = pids_of(pool, 2)
    assert set(before) - set(after) == {own}
    assert not logged("read-only")


def test_where_read_write_was_asked_for_an_older_server_is_believed_too(
    make_pool: MakePool, server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tell_of_no_role(monkeypatch)
    for wanted, survivors in (("read-write", 0), ("any", 2)):
        pool = make_pool(server.dsn(target_session_attrs=wanted), max_size=3)
        before = pids_of(pool, 3)
        with pool.connection() as conn:
            conn.read_only = True
            write_in_vain(conn)
        assert len(set(before) & set(pids_of(pool, 3))) == survivors


def test_a_session_that_is_pinged_is_found_to_have_turned(
    make_pool: MakePool, server: Cluster, turn: Callable[[], None]
) -> None:
    pool = make_pool(server.dsn(), max_size=1, ping_after=0.0)
    before = pids_of(pool, 1)
    turn()
    until(lambda: pids_of(pool, 1) != before)
    after = pids_of(pool, 1)
    assert pids_of(pool, 1) == after


@pytest.mark.parametrize("wanted", ["any", "read-only"])
@pytest.mark.parametrize("is_old", [True, False])
def test_a_server_that_was_read_only_from_the_first_is_asked_for_again_some_time_later(
    make_pool: MakePool,
    server: Cluster,
    turn: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    is_old: bool,
) -> None:
    inside.names_may_lead_elsewhere_after(monkeypatch, 0.0 if is_old else 600.0)
    turn()
    pool = make_pool(server.dsn(target_session_attrs=wanted), max_size=3)
    before = pids_of(pool, 3)
    with pool.connection() as conn:
        write_in_vain(conn)
    stay = len(set(before) & set(pids_of(pool, 3)))
    assert stay == (0 if is_old and wanted == "any" else 3)


@pytest.mark.stress
@pytest.mark.parametrize(("wanted", "stays"), [("standby", False), ("any", True)])
def test_a_standby_that_was_promoted_is_left_by_who_asked_for_a_standby(
    make_pool: MakePool, wanted: str, stays: bool
) -> None:
    with Primary() as primary, primary.standby() as standby:
        pool = make_pool(
            standby.dsn(target_session_attrs=wanted), max_size=1, ping_after=0.0, outage_patience=0
        )
        before = pids_of(pool, 1)
        standby.promote()
        for _ in range(3):  # with an answer of the server the session hears of it
            if stays:
                assert pids_of(pool, 1) == before
            else:
                with suppress(psycopg.OperationalError):
                    pids_of(pool, 1)
        assert bool(pool.snapshot()["size"]) is stays
