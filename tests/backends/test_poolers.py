"""Django behind PgBouncer, as `"behind": "pgbouncer"` says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError, connections, transaction
from django.db.utils import OperationalError

import django_connpool
from django_connpool import aio, checks, conf
from tests import bouncer
from tests.bouncer import PgBouncer
from tests.cluster import Cluster
from tests.databases import Databases, in_threads, round_trips, value

pytestmark = [pytest.mark.e2e, bouncer.wanted]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as started:
        started.execute("CREATE TABLE written (id bigserial PRIMARY KEY, path text)")
        yield started


@pytest.fixture(scope="module")
def shared(server: Cluster) -> Iterator[PgBouncer]:
    with PgBouncer(server, "transaction") as started:
        yield started


def behind(databases: Databases, shared: PgBouncer, **changes: Any) -> Any:
    """A database behind it."""
    pool = {"behind": "pgbouncer", **changes.pop("pool", {})}
    return databases.add(server=shared, pool=pool, **changes)


@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
def test_transactions_and_their_savepoints_are_as_with_a_server(
    databases: Databases, shared: PgBouncer, server: Cluster, release: str
) -> None:
    alias = behind(databases, shared, pool={"release": release, "max_size": 6}).alias
    server.execute("TRUNCATE written")

    def work() -> None:
        connection = connections[alias]
        for number in range(20):
            with django_connpool.scope("work"), transaction.atomic(alias):
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL search_path = public, pg_catalog")
                try:
                    with transaction.atomic(alias), connection.cursor() as cursor:
                        cursor.execute(
                            "INSERT INTO written (path) VALUES (current_setting('search_path'))"
                        )
                        if number % 2:
                            raise LookupError
                except LookupError:
                    pass
        connection.close()

    in_threads([work] * 6)
    assert server.execute("SELECT count(*), max(path) FROM written") == [(60, "public, pg_catalog")]


def test_a_transaction_takes_as_few_round_trips_as_with_a_server(
    databases: Databases, shared: PgBouncer
) -> None:
    wrapper = behind(databases, shared)

    def work() -> None:
        with transaction.atomic(wrapper.alias):
            value(wrapper, "SELECT 1")

    work()
    assert round_trips(wrapper, work) == 2


def test_times_are_in_the_time_zone_of_the_settings(
    databases: Databases, shared: PgBouncer
) -> None:
    here = behind(databases, shared, alias="here", TIME_ZONE="Asia/Tokyo")
    there = behind(databases, shared, alias="there", TIME_ZONE="America/Lima")
    for _ in range(10):
        for wrapper, zone in ((here, "Asia/Tokyo"), (there, "America/Lima")):
            assert value(wrapper, "SHOW timezone") == zone
            with transaction.atomic(wrapper.alias):
                assert value(wrapper, "SHOW timezone") == zone
            wrapper.close()


def test_what_strangers_would_get_is_refused_in_words_of_djangos(
    databases: Databases, shared: PgBouncer
) -> None:
    wrapper = behind(databases, shared)
    for query in ("SET work_mem = '1MB'", "LISTEN somebody"):
        with pytest.raises(NotSupportedError, match="pooler"), wrapper.cursor() as cursor:
            cursor.execute(query)
    with pytest.raises(NotSupportedError, match="pooler"), transaction.atomic(wrapper.alias):
        value(wrapper, "SELECT set_config('app.tenant', '7', false)")
    assert value(wrapper, "SELECT 1") == 1


def test_a_role_that_strangers_would_have_is_refused_at_once(
    databases: Databases, shared: PgBouncer
) -> None:
    wrapper = behind(databases, shared, options={"assume_role": "pg_monitor"})
    with pytest.raises(NotSupportedError, match="pooler"):
        value(wrapper, "SELECT 1")


def test_rows_are_read_in_chunks_in_transactions_only(
    databases: Databases, shared: PgBouncer
) -> None:
    wrapper = behind(databases, shared)
    with transaction.atomic(wrapper.alias), wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchall() == [(1,), (2,), (3,)]
    with (
        wrapper.chunked_cursor() as cursor,
        pytest.raises(NotSupportedError, match="DISABLE_SERVER_SIDE_CURSORS"),
    ):
        cursor.execute("SELECT 1")


@pytest.mark.parametrize("option", conf.SERVERS_LIMITS)
def test_a_time_limit_is_given_up_to_the_role(
    databases: Databases, shared: PgBouncer, option: str
) -> None:
    assert value(behind(databases, shared, pool={option: 3}), "SELECT 1") == 1
    wrapper = databases.add("silent", server=shared, pool={option: 3})
    with pytest.raises(OperationalError, match='"behind" to "pgbouncer"'):
        value(wrapper, "SELECT 1")


def test_listening_where_nothing_would_be_told_is_refused(
    databases: Databases, shared: PgBouncer
) -> None:
    wrapper = behind(databases, shared)
    with pytest.raises(ImproperlyConfigured, match="which loses notifications"):
        django_connpool.listen(wrapper.alias, "orders")


def test_w034_a_pooler_of_which_nobody_has_said_anything(
    databases: Databases, shared: PgBouncer, server: Cluster
) -> None:
    def told(alias: str) -> list[str]:
        return [message.id or "" for message in checks.check_servers(None, [alias])]

    with PgBouncer(server, "session") as alone:
        databases.add("silent", server=shared)
        databases.add("alone", server=alone)
        databases.add("direct", server=server)
        behind(databases, shared, alias="said")
        assert told("silent") == ["django_connpool.W034"]
        assert [told(alias) for alias in ("alone", "direct", "said")] == [[], [], []]


def test_tasks_borrow_behind_it_too(databases: Databases, shared: PgBouncer) -> None:
    alias = behind(databases, shared, pool={"max_size": 4}).alias
    pool = aio.pools[alias]

    async def work(number: int) -> Any:
        async with pool.transaction() as conn:
            await conn.execute("SET LOCAL work_mem = '7MB'")
            cursor = await conn.execute("SELECT current_setting('work_mem'), %s::int", [number])
            return await cursor.fetchone()

    async def main() -> None:
        rows = await asyncio.gather(*(work(number) for number in range(30)))
        assert rows == [("7MB", number) for number in range(30)]
        assert await pool.fetchval("SHOW work_mem") != "7MB"
        with pytest.raises(psycopg.NotSupportedError):
            await pool.execute("SET work_mem = '7MB'")

    asyncio.run(main())
