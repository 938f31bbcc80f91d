"""Who reads a wrapper's `connection` between two statements finds what Django would have there.

Panels that show statements do, with `release: "transaction"`.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, transaction
from django.db.utils import OperationalError
from psycopg.pq import TransactionStatus

import django_connpool
from django_connpool import PoolTimeout
from tests.databases import Databases, in_hand, in_thread, on_loan, pid, value

IDLE = TransactionStatus.IDLE


@pytest.fixture
def early(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 1, "release": "transaction", "timeout": 1})


def ends(wrapper: Any) -> None:
    """A request ends."""
    wrapper.close_if_unusable_or_obsolete()
    assert on_loan(wrapper) == 0
    assert wrapper.connection is None
    assert on_loan(wrapper) == 0


def test_it_is_there_until_the_work_ends(early: Any) -> None:
    assert early.connection is None
    for _ in range(2):
        with early.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert in_hand(early) is None and on_loan(early) == 0
            raw = early.connection
            assert raw.info.transaction_status == IDLE
            (loan,) = early.pool.snapshot()["loans"]
            assert loan["pinned"] == "taken by reading `connection`"
            cursor.execute("SELECT 2")
            assert cursor.fetchone() == (2,)
        with transaction.atomic(using="spare"):
            value(early, "SELECT 1")
        assert early.connection is raw
        assert raw.execute("SELECT 3").fetchone() == (3,)
        ends(early)


def test_it_is_there_after_a_block(early: Any) -> None:
    with transaction.atomic(using="spare"):
        value(early, "SELECT 1")
    assert early.connection.pgconn.transaction_status == IDLE
    ends(early)


@pytest.mark.parametrize(
    "end",
    [
        lambda wrapper: wrapper.close(),
        lambda wrapper: wrapper.close_pool(),
        lambda wrapper: wrapper.close_if_unusable_or_obsolete(),
    ],
    ids=["close", "close_pool", "request"],
)
def test_it_is_none_once_it_was_closed(early: Any, end: Any) -> None:
    pid(early)
    end(early)
    assert early.connection is None
    assert pid(early)


def test_it_is_none_when_the_work_has_ended(early: Any) -> None:
    with django_connpool.scope("work"):
        pid(early)
        assert in_hand(early) is None
    assert early.connection is None
    with django_connpool.scope("work"):
        pid(early)
        assert early.connection is not None
    assert early.connection is None
    assert on_loan(early) == 0


def test_another_thread_borrows_nothing_by_looking(early: Any) -> None:
    pid(early)
    assert in_thread(lambda: early.connection) is None
    assert on_loan(early) == 0
    assert early.connection is not None


def test_threads_that_share_it_find_it(early: Any) -> None:
    pid(early)
    early.inc_thread_sharing()
    try:
        seen = in_thread(lambda: early.connection)
        assert seen is not None and seen is early.connection
    finally:
        early.dec_thread_sharing()
    ends(early)


def test_who_waits_in_vain_to_look_is_told(early: Any) -> None:
    pid(early)
    with early.pool.connection(), pytest.raises(OperationalError) as caught:
        _ = early.connection
    assert isinstance(caught.value.__cause__, PoolTimeout)
    assert early.connection is not None


@pytest.mark.parametrize(
    "look",
    [
        lambda wrapper: wrapper.pg_version,
        lambda wrapper: wrapper.commit(),
        lambda wrapper: wrapper.rollback(),
        lambda wrapper: wrapper.get_autocommit(),
        lambda wrapper: wrapper.set_autocommit(True),
        lambda wrapper: django_connpool.release("spare"),
        lambda wrapper: wrapper.close_if_health_check_failed(),
    ],
    ids=["pg_version", "commit", "rollback", "get", "set", "release", "health"],
)
def test_what_django_does_by_itself_keeps_nothing(early: Any, look: Any) -> None:
    pid(early)
    vars(early).pop("pg_version", None)
    look(early)
    assert on_loan(early) == 0
    with early.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
    assert on_loan(early) == 0


def test_ensure_connection_keeps_it(early: Any) -> None:
    pid(early)
    early.ensure_connection()
    assert in_hand(early) is not None
    raw = early.connection
    pid(early)
    assert early.connection is raw
    ends(early)


def test_a_pool_that_was_closed_is_replaced_for_who_looks(early: Any) -> None:
    pid(early)
    early.pool.close()
    assert early.connection.info.transaction_status == IDLE
    ends(early)


def test_it_is_there_where_idle_loans_are_recalled(databases: Databases) -> None:
    wrapper = databases.add(
        pool={"max_size": 1, "release": "transaction", "max_hold_idle": 0.05, "timeout": 30}
    )

    def work() -> None:
        own = connections["spare"]
        for _ in range(200):
            assert value(own, "SELECT 1") == 1
            assert own.connection.info.transaction_status == IDLE
            own.close_if_unusable_or_obsolete()

    in_thread(work)
    work()
    assert on_loan(wrapper) == 0
