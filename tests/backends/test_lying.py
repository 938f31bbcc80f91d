"""Answers that are lost or cut on the way to Django, where BEGIN went with the first statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from tests.cluster import Server
from tests.databases import Databases, value
from tests.proxy import Cut, Proxy


@pytest.fixture
def table(cluster: Server) -> Iterator[str]:
    cluster.execute("CREATE TABLE lying_answers (id int)")
    yield "lying_answers"
    cluster.execute("DROP TABLE lying_answers")


@pytest.fixture
def wrapper(databases: Databases, proxy: Proxy) -> Any:
    """A database behind a network that will lie; it works, and its server is known."""
    wrapper = databases.add(server=Server(proxy.params()), pool={"max_size": 1})
    for _ in range(3):
        assert value(wrapper, "SELECT 1") == 1
        wrapper.close()
    return wrapper


def cut_next(proxy: Proxy, length: int) -> None:
    """Let only so many bytes of the next answer through, and end the connection."""

    def answer(data: bytes) -> bytes:
        proxy.answer = bytes
        raise Cut(data[:length])

    proxy.answer = answer


@pytest.mark.parametrize("length", [0, 1, 5, 20, 27, 35])
def test_a_transaction_whose_first_answer_is_cut_is_not_begun_again(
    wrapper: Any, proxy: Proxy, cluster: Server, table: str, length: int
) -> None:
    with (
        pytest.raises(DatabaseError),
        transaction.atomic(wrapper.alias),
        transaction.atomic(wrapper.alias),
        wrapper.cursor() as cursor,
    ):
        cut_next(proxy, length)
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
    wrapper.close()
    assert value(wrapper, "SELECT 7") == 7
    assert cluster.execute(f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_statement_whose_answer_is_lost_is_not_sent_again(
    wrapper: Any, proxy: Proxy, cluster: Server, table: str
) -> None:
    with pytest.raises(DatabaseError), wrapper.cursor() as cursor:
        cut_next(proxy, 0)
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
    wrapper.close()
    assert value(wrapper, "SELECT 7") == 7
    assert cluster.execute(f"SELECT count(*) FROM {table}") == [(1,)]
