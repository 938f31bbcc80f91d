"""What keeps a session from going to somebody else, and that all who ask go by the same.

Three ask: who gives back between two statements (`release: "transaction"`), who takes back from a
thread that does not use its connection (`max_hold_idle`, and the parts of a stream), and who gives
back what is left when other work begins, which ends state but not what is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import transaction

import django_connpool
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, in_hand
from tests.pool.real.helpers import until_known


def statements(*texts: str) -> Callable[[Any], object]:
    def run(wrapper: Any) -> None:
        with wrapper.cursor() as cursor:
            for text in texts:
                cursor.execute(text)

    return run


def attribute(wrapper: Any) -> None:
    with wrapper.cursor() as cursor:
        cursor.connection.prepare_threshold = 7


def incomparable(wrapper: Any) -> None:
    class Incomparable(str):
        def __eq__(self, other: object) -> bool:
            raise ValueError("on purpose")

        __hash__ = str.__hash__

    with wrapper.cursor() as cursor:
        cursor.connection.note = Incomparable()


def handler(wrapper: Any) -> None:
    with wrapper.cursor() as cursor:
        cursor.connection.add_notice_handler(print)


def without_autocommit(wrapper: Any) -> None:
    wrapper.set_autocommit(False)


def dead(wrapper: Any) -> None:
    with suppress(Exception):
        statements("SELECT pg_terminate_backend(pg_backend_pid())")(wrapper)


def fails_in_transaction(wrapper: Any) -> None:
    with suppress(Exception):
        statements("BEGIN", "SELECT 1 / 0")(wrapper)


class Kind(NamedTuple):
    act: Callable[[Any], object]
    keeps: list[str]  # the session, and in what words
    is_under_way: bool = False  # so that no other work ends it


KINDS = {
    "a query": Kind(statements("SELECT 1"), []),
    "a serial key": Kind(statements("INSERT INTO at_rest (n) VALUES (1)"), []),
    "nextval": Kind(statements("SELECT nextval('at_rest_id_seq')"), []),
    "other meanings of names": Kind(
        statements("BEGIN; SET LOCAL search_path = public; COMMIT"), []
    ),
    "set for a transaction": Kind(statements("BEGIN; SET LOCAL work_mem = '8MB'; COMMIT"), []),
    "SET": Kind(statements("SET work_mem = '8MB'"), ["settings"]),
    "set_config": Kind(statements("SELECT set_config('a.tenant', '4', false)"), ["settings"]),
    "a role": Kind(statements("SET ROLE NONE"), ["settings", "roles"]),
    "LISTEN": Kind(statements("LISTEN at_rest"), ["channels"]),
    "a lock": Kind(statements("SELECT pg_advisory_lock(1)"), ["advisory locks"]),
    "a temporary table": Kind(statements("CREATE TEMP TABLE mine (n int)"), ["temporary objects"]),
    "PREPARE": Kind(statements("PREPARE p AS SELECT 1"), ["prepared statements"]),
    "a cursor WITH HOLD": Kind(
        statements("BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"), ["cursors"]
    ),
    "LOAD": Kind(statements("LOAD 'plpgsql'"), ["what only the end of the session undoes"]),
    "an attribute": Kind(attribute, ["the connection object was changed"]),
    "what cannot be compared": Kind(incomparable, ["the connection object was changed"]),
    "a handler of notices": Kind(handler, ["the connection object was changed"]),
    "a transaction": Kind(statements("BEGIN"), ["in a transaction"], True),
    "a failed transaction": Kind(fails_in_transaction, ["in a transaction"], True),
    "no autocommit": Kind(without_autocommit, ["autocommit was switched"], True),
    "death": Kind(dead, []),
}


kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


@pytest.fixture(scope="module", autouse=True)
def table(cluster: Server) -> Iterator[None]:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE at_rest (id serial PRIMARY KEY, n int)")
        yield
        conn.execute("DROP TABLE at_rest")


def borrowed(databases: Databases, **options: Any) -> Any:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 5, **options})
    until_known(wrapper.pool)
    wrapper.ensure_connection()
    return wrapper


@kinds
def test_the_session_says_what_keeps_it(databases: Databases, kind: Kind) -> None:
    wrapper = borrowed(databases)
    kind.act(wrapper)

    assert inside.ties(wrapper) == kind.keeps


@kinds
@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
def test_between_two_statements_only_what_is_at_rest_is_offered_or_given_back(
    databases: Databases, kind: Kind, release: str
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 5, "release": release})
    until_known(wrapper.pool)
    statements("SELECT 1")(wrapper)  # after the first of a connection they end the short way
    kind.act(wrapper)

    assert (in_hand(wrapper) is not None) == bool(kind.keeps)


@kinds
def test_from_a_thread_only_what_is_at_rest_is_taken(databases: Databases, kind: Kind) -> None:
    wrapper = borrowed(databases, max_hold_idle=60)
    kind.act(wrapper)

    assert inside.is_at_rest(wrapper) == (not kind.keeps)


@kinds
def test_where_other_work_begins_only_what_is_under_way_stays(
    databases: Databases, kind: Kind
) -> None:
    wrapper = borrowed(databases)
    kind.act(wrapper)
    with django_connpool.scope("other work"):
        assert (in_hand(wrapper) is not None) == kind.is_under_way


def test_in_an_atomic_block_without_autocommit_a_cursor_that_ran_nothing_gives_nothing_back(
    databases: Databases,
) -> None:
    """Nothing but the block keeps it then: the session is in no transaction yet."""
    wrapper = databases.add(pool={"max_size": 1, "release": "transaction"}, AUTOCOMMIT=False)
    with transaction.atomic(using=wrapper.alias, savepoint=False):
        with wrapper.cursor():
            pass
        assert in_hand(wrapper) is not None
        statements("SELECT 1")(wrapper)
        assert wrapper.in_atomic_block
