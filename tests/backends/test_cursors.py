from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction

from shop.models import Category
from tests.databases import Databases, on_loan, pid, value

CURSORS = "SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs%'"


@pytest.fixture
def categories(transactional_db: None) -> None:
    Category.objects.bulk_create(Category(name=f"Name {n}", slug=f"slug-{n}") for n in range(7))


def test_iterator_reads_piece_by_piece_from_a_cursor_that_outlives_the_transaction(
    categories: None,
) -> None:
    found = Category.objects.order_by("pk").iterator(chunk_size=2)

    assert next(found).slug == "slug-0"
    assert value(connection, CURSORS + " AND is_holdable") == 1
    assert [category.slug for category in found] == [f"slug-{n}" for n in range(1, 7)]
    assert value(connection, CURSORS) == 0


def test_iterator_in_atomic_reads_from_a_cursor_of_the_transaction(categories: None) -> None:
    with transaction.atomic():
        found = Category.objects.order_by("pk").iterator(chunk_size=2)
        next(found)
        assert value(connection, CURSORS + " AND NOT is_holdable") == 1
        assert len(list(found)) == 6


def test_a_cursor_that_is_given_up_in_the_middle_is_closed(categories: None) -> None:
    found = Category.objects.iterator(chunk_size=2)
    next(found)
    found.close()

    assert value(connection, CURSORS) == 0


def test_two_iterators_share_one_loan(categories: None) -> None:
    pairs = list(
        zip(
            Category.objects.order_by("pk").iterator(chunk_size=2),
            Category.objects.order_by("-pk").iterator(chunk_size=3),
            strict=True,
        )
    )

    assert [first.slug for first, _ in pairs] == [last.slug for _, last in reversed(pairs)]
    assert on_loan(connection) == 1


def test_iterator_without_server_side_cursors_reads_everything(
    categories: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    found = Category.objects.iterator(chunk_size=2)
    next(found)

    assert value(connection, CURSORS) == 0
    assert len(list(found)) == 6


def test_server_side_binding_works_through_the_pool(databases: Databases) -> None:
    wrapper = databases.add(options={"server_side_binding": True})
    for _ in range(2):
        assert value(wrapper, "SELECT %s::int + 1", [41]) == 42
        wrapper.close()


def test_prepared_statements_work_from_one_loan_to_the_next(databases: Databases) -> None:
    options = {"prepare_threshold": 0, "server_side_binding": True}
    wrapper = databases.add(pool={"max_size": 1}, options=options)
    for _ in range(3):
        assert value(wrapper, "SELECT %s::int", [5]) == 5
        wrapper.close()
    assert value(wrapper, "SELECT count(*) FROM pg_prepared_statements") >= 1


def test_a_temporary_connection_is_given_back(databases: Databases) -> None:
    wrapper = databases.add()
    with wrapper.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
        assert on_loan(wrapper) == 1

    assert wrapper.connection is None
    assert on_loan(wrapper) == 0


def test_a_temporary_connection_leaves_a_loan_that_was_there(databases: Databases) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    with wrapper.temporary_connection() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == (first,)

    assert on_loan(wrapper) == 1


def test_ensure_connection_borrows_once(databases: Databases) -> None:
    wrapper = databases.add()
    wrapper.ensure_connection()
    first: Any = wrapper.connection
    wrapper.ensure_connection()

    assert wrapper.connection is first
    assert on_loan(wrapper) == 1
    assert wrapper.is_usable()


def test_the_psycopg_connection_is_there_to_be_used(databases: Databases) -> None:
    wrapper = databases.add()
    wrapper.ensure_connection()
    with wrapper.connection.cursor() as cursor, cursor.copy("COPY (SELECT 7) TO STDOUT") as copy:
        assert b"".join(copy) == b"7\n"
    assert wrapper.connection.info.backend_pid == pid(wrapper)
    assert not wrapper.connection.closed
