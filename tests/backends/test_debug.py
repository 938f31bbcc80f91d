"""Where Django notes each statement (`DEBUG`), it makes a cursor of its own after each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction

from tests.databases import Databases, in_hand
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until


def noting(wrapper: Any) -> Any:
    wrapper.force_debug_cursor = True
    return wrapper


@pytest.mark.parametrize("release", ["auto", "transaction"])
def test_what_is_noted_is_offered_all_the_same(databases: Databases, release: str) -> None:
    wrapper = noting(databases.add(pool={"max_size": 1, "release": release}))
    until_known(wrapper.pool)
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert in_hand(wrapper) is None
        cursor.execute("SELECT %s", [1])
        assert in_hand(wrapper) is None
        assert cursor.fetchall() == [(1,)]
    assert in_hand(wrapper) is None
    with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        cursor.execute("SELECT %s", [1])
    assert in_hand(wrapper) is None
    assert len(wrapper.queries) >= 3


def test_two_that_take_turns_both_end(databases: Databases) -> None:
    """The one that lost its connection as its statement ended wants it once more, to note that."""
    wrapper = databases.add(pool={"max_size": 1, "timeout": 60})
    until_known(wrapper.pool)
    pool = wrapper.pool

    def ask() -> int:
        mine = noting(connections[wrapper.alias])
        for _ in range(50):
            with mine.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.001)")
        return len(mine.queries)

    wrapper.close()
    with ThreadPoolExecutor(3) as executor:
        asking = [executor.submit(ask) for _ in range(3)]
        assert [each.result() for each in asking] == [50] * 3
        wait_until(lambda: not pool.snapshot()["waiting"], "nobody waits")
    assert pool.snapshot()["in_use"] == 0
