"""A user's file: what a type checker is to make of the package when only its wheel is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any, assert_type

import psycopg
from psycopg.rows import DictRow, dict_row

import django_connpool
from django_connpool import ConnectionPool, PoolTimeout, aio, signals
from django_connpool.aio import Pool
from django_connpool.testing import assert_session_stays_clean


def borrow() -> None:
    assert_type(django_connpool.__version__, str)
    assert_type(django_connpool.pools["default"], ConnectionPool[Any])
    assert_type(django_connpool.release(), None)
    block: AbstractContextManager[None] = django_connpool.pinned()
    with block, django_connpool.released("default"), django_connpool.hold("request"):
        pass
    with assert_session_stays_clean("default"):
        pass
    heard: object = signals.connection_waited
    assert heard


@django_connpool.scope("job")
def work(number: int) -> str:
    return str(number)


assert_type(work(1), str)


def alone() -> list[dict[str, Any]]:
    class Connection(psycopg.Connection[DictRow]):
        pass

    with ConnectionPool(
        "dbname=shop", connection_class=Connection, kwargs={"row_factory": dict_row}
    ) as pool:
        assert_type(pool, ConnectionPool[Connection])
        try:
            with pool.connection(timeout=1.0) as conn:
                assert_type(conn, Connection)
                return conn.execute("SELECT 1 AS one").fetchall()
        except PoolTimeout as error:
            caught: psycopg.OperationalError = error
            raise caught from None


async def in_a_task() -> AsyncIterator[Any]:
    pool = aio.pools["default"]
    assert_type(pool, Pool)
    async with pool.acquire() as conn:
        assert_type(conn.closed, bool)
    async with pool.transaction() as conn:
        yield conn
    assert_type(await pool.execute("SELECT 1"), str)
