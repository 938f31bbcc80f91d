from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_connpool import ConnectionPool
from tests import inside
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import (
    DEADLINE,
    Borrower,
    holder_of,
    pid,
    pids_of,
    served,
    until,
    until_waiting,
)

Logged = Callable[[str], list[str]]


def in_a_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work, name="short-lived")
    thread.start()
    thread.join(DEADLINE)


def test_a_loan_that_nobody_can_reach_any_more_comes_back(
    make_pool: MakePool, logged: Logged, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=1)
    pool.getconn()
    gc.collect()
    assert served(pool)
    assert logged("was never given back, closing it")
    assert backends() == 1
    assert pool.get_stats()["loans_reclaimed"] == 1


def test_a_thread_that_ends_gives_back_what_it_borrowed(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=2)
    kept: list[Any] = []
    in_a_thread(lambda: kept.extend([pool.getconn(), pool.getconn()]))
    assert len(pids_of(pool, 2)) == 2
    assert logged("was never given back, closing it")
    assert pool.get_stats()["loans_reclaimed"] == 2
    assert all(conn.closed for conn in kept)


def test_what_the_collector_ends_may_use_its_connection_to_the_last(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=1)
    said: list[Any] = []

    def look_around() -> None:
        in_a_thread(lambda: inside.tick(pool))

    def work() -> Iterator[int]:
        with pool.connection() as conn:
            try:
                yield pid(conn)
            finally:
                look_around()
                said.append(conn.execute("SET work_mem = '9MB'").statusmessage)

    circle: list[Any] = [work()]
    circle.append(circle)  # which only the collector finds
    backend = next(circle[0])
    del circle
    gc.collect()
    assert said == ["SET"]
    with pool.connection() as conn:  # nor is it taken from who has it next
        look_around()
        assert pid(conn) == backend
    assert pool.get_stats()["loans_reclaimed"] == 0
    assert not logged("was never given back")
    kept: list[Any] = []
    in_a_thread(lambda: kept.append(pool.getconn()))  # and it still ends with its thread
    assert served(pool)
    assert kept[0].closed


def test_what_the_collector_finds_in_nobodys_hand_comes_back(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=1)
    circle: list[Any] = [pool.getconn()]
    circle.append(circle)
    del circle
    gc.collect()
    assert served(pool)
    assert logged("was never given back, closing it")


def test_so_it_does_where_nothing_tells_when_it_is_really_gone(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.cpython, "FREE_THREADED", True)
    pool = make_pool(max_size=1)
    pool.getconn()
    gc.collect()
    assert served(pool)
    assert pool.get_stats()["loans_reclaimed"] == 1


def test_who_waits_is_served_when_the_holder_dies(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    waiters: list[Borrower] = []

    def die() -> None:
        conn = pool.getconn()
        waiters.append(Borrower(pool))
        until_waiting(pool, 1)
        assert conn

    in_a_thread(die)
    waiters[0].got()
    waiters[0].give_back()


def test_what_a_dead_borrower_did_is_undone(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    def leave_a_mess() -> None:
        pool.getconn().execute("CREATE TABLE left_behind (x int)")

    in_a_thread(leave_a_mess)
    with pool.connection() as conn:
        assert conn.execute("SELECT to_regclass('left_behind')").fetchone() == (None,)


def test_giving_back_what_has_been_reclaimed_does_no_harm(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    kept: list[Any] = []
    in_a_thread(lambda: kept.append(pool.getconn()))
    until(lambda: kept[0].closed)
    pool.putconn(kept[0])
    assert served(pool)


def test_a_connection_another_thread_works_with_is_not_taken_away(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    working, done, kept = threading.Event(), threading.Event(), []

    def work() -> None:
        with kept[0].lock:
            working.set()
            done.wait(DEADLINE)

    def lend_and_die() -> None:
        kept.append(pool.getconn())
        threading.Thread(target=work, daemon=True).start()
        working.wait(DEADLINE)

    in_a_thread(lend_and_die)
    inside.tick(pool)
    assert not inside.has_leftovers(pool)
    assert not kept[0].closed
    done.set()
    pool.putconn(kept.pop())
    assert served(pool)


def test_the_warning_names_the_line_that_borrowed_when_leaks_are_watched(
    make_pool: MakePool, logged: Logged
) -> None:
    pool = make_pool(max_size=1, leak_after=600, describe=lambda: "GET /shop/")
    in_a_thread(lambda: pool.getconn())
    assert served(pool)
    (line,) = logged("never given back")
    assert f"at {__file__}:" in line
    assert "GET /shop/" in line


def test_a_loan_held_too_long_is_reported_once(make_pool: MakePool, logged: Logged) -> None:
    pool = make_pool(max_size=1, leak_after=0.05, describe=lambda: "GET /slow/")
    holder = holder_of(pool)
    (line,) = until(lambda: logged("on loan for"))
    assert holder.thread.name in line
    assert "GET /slow/" in line
    assert "now at" in line
    inside.tick(pool)
    holder.give_back()
    assert len(logged("on loan for")) == 1
    assert logged("was given back after")


def test_a_finalizer_inside_the_lock_does_not_lock_up(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)
    kept = [pool.getconn()]
    with inside.lock(pool):
        kept.clear()
        gc.collect()
    assert len(pids_of(pool, 2)) == 2


def test_a_loan_that_dies_after_the_pool_was_closed_leaves_no_backend(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(max_size=1)
    kept = [pool.getconn()]
    pool.close()
    assert backends() == 1
    kept.clear()
    until(lambda: backends() == 0)


def test_a_pool_is_kept_by_its_last_loan(dsn: str) -> None:
    pool = ConnectionPool(dsn, min_size=0, max_size=1)
    conn: Any = pool.getconn()
    del pool
    gc.collect()
    with conn._pool as kept:
        kept.putconn(conn)
    assert conn.closed


def test_the_snapshot_tells_who_holds_what(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2, describe=lambda: "GET /shop/")
    holder = holder_of(pool)
    holder.conn.execute("SELECT 1")
    (loan,) = pool.snapshot()["loans"]
    assert (loan["thread"], loan["thread_id"]) == (holder.thread.name, holder.thread.ident)
    assert (loan["note"], loan["transaction"]) == ("GET /shop/", "INTRANS")
    assert loan["backend_pid"] == pid(holder.conn)
    assert 0 <= loan["held"] < DEADLINE
    holder.give_back()


def test_a_connection_that_is_being_looked_at_is_nobodys_loan(
    make_pool: MakePool, logged: Logged
) -> None:
    seen: list[Any] = []

    def check(conn: Any) -> None:
        seen.extend(pool.snapshot()["loans"])
        inside.tick(pool)

    pool = make_pool(max_size=1, leak_after=1e-9)
    assert served(pool)
    inside.change(pool, check=check, ping_after=0.0)
    assert served(pool) and served(pool)
    assert seen == []
