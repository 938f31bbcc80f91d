"""`with pool.connection()`: what becomes of the transaction, and of the connection."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import counts

IDLE = psycopg.pq.TransactionStatus.IDLE


def count(conn: psycopg.Connection[Any]) -> int:
    return conn.execute("SELECT count(*) FROM blocks").fetchone()[0]  # type: ignore[index]


def test_a_block_that_ends_well_commits_and_one_that_raises_does_not(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, reset=False)
    with pool.connection() as conn:
        conn.execute("CREATE TEMP TABLE blocks (a int)")
        conn.execute("INSERT INTO blocks VALUES (1)")
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        conn.execute("INSERT INTO blocks VALUES (2)")
        1 / 0  # noqa: B018
    with pool.connection() as conn:
        assert conn.info.transaction_status == IDLE
        assert count(conn) == 1
    assert counts(pool) == (1, 0, 0)


def test_it_is_also_a_decorator_and_borrows_for_each_call(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3)
    most = []

    @pool.connection()
    def down(depth: int) -> None:
        most.append(pool.snapshot()["in_use"])
        if depth:
            down(depth - 1)

    down(2)
    assert most == [1, 2, 3]
    assert pool.snapshot()["in_use"] == 0


def test_a_block_may_be_repeated_but_not_entered_twice(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)
    block = pool.connection()
    for _ in range(2):
        with block as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(RuntimeError, match="under way"), block:
                pass
            assert pool.snapshot()["in_use"] == 1
    assert pool.snapshot()["in_use"] == 0


class Telling(psycopg.Connection[Any]):
    """A connection class with a `commit` of its own."""

    commits = 0

    def commit(self) -> None:
        type(self).commits += 1
        super().commit()


def test_a_commit_of_its_own_is_called_when_there_is_nothing_to_commit_too(
    make_pool: MakePool,
) -> None:
    pool = make_pool(connection_class=Telling)
    Telling.commits = 0
    with pool.connection() as conn:
        assert isinstance(conn, Telling)
    assert type(conn).commits == 1


def test_a_two_phase_transaction_that_is_left_is_an_error_as_without_a_pool(
    make_pool: MakePool, cluster: Any
) -> None:
    pool = make_pool(max_size=1)
    with pytest.raises(psycopg.ProgrammingError, match="two-phase"), pool.connection() as conn:
        conn._tpc = (
            conn.xid(1, "a", "b"),
            True,
        )  # as tpc_prepare() leaves it, with no server's help
    with pool.connection() as conn:
        assert conn._tpc is None
