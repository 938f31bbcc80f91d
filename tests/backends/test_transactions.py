from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import IntegrityError, ProgrammingError, connection, transaction
from psycopg import IsolationLevel

from shop.models import Category
from tests.cluster import Server
from tests.databases import Databases, connected, on_loan, pid, value

TABLE = "CREATE TEMPORARY TABLE notes (text text UNIQUE)"


@pytest.fixture
def notes(databases: Databases) -> Any:
    """A wrapper in the middle of a loan, in a session with an empty table."""
    wrapper = databases.add()
    with wrapper.cursor() as cursor:
        cursor.execute(TABLE)
    return wrapper


def write(wrapper: Any, text: str) -> None:
    with wrapper.cursor() as cursor:
        cursor.execute("INSERT INTO notes VALUES (%s)", [text])


def read(wrapper: Any) -> list[str]:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT text FROM notes ORDER BY text")
        return [text for (text,) in cursor.fetchall()]


def test_atomic_commits_what_ends_well(notes: Any) -> None:
    with transaction.atomic(using=notes.alias):
        write(notes, "kept")

    assert read(notes) == ["kept"]
    assert notes.get_autocommit()


def test_atomic_rolls_back_what_raises(notes: Any) -> None:
    with pytest.raises(KeyError), transaction.atomic(using=notes.alias):
        write(notes, "lost")
        raise KeyError

    assert read(notes) == []


def test_a_savepoint_is_rolled_back_alone(notes: Any) -> None:
    with transaction.atomic(using=notes.alias):
        write(notes, "outer")
        with pytest.raises(IntegrityError), transaction.atomic(using=notes.alias):
            write(notes, "inner")
            write(notes, "outer")
        write(notes, "after")

    assert read(notes) == ["after", "outer"]


def test_on_commit_runs_after_the_commit_and_never_after_a_rollback(notes: Any) -> None:
    seen = []
    with transaction.atomic(using=notes.alias):
        write(notes, "kept")
        transaction.on_commit(lambda: seen.append(read(notes)), using=notes.alias)
        assert seen == []
    with pytest.raises(KeyError), transaction.atomic(using=notes.alias):
        transaction.on_commit(lambda: seen.append(["wrong"]), using=notes.alias)
        raise KeyError

    assert seen == [["kept"]]


def test_on_commit_callbacks_do_not_reach_the_next_loan(databases: Databases) -> None:
    wrapper = databases.add()
    seen: list[str] = []
    with pytest.raises(ProgrammingError), transaction.atomic(using=wrapper.alias):
        transaction.on_commit(lambda: seen.append("wrong"), using=wrapper.alias)
        wrapper.close()
        value(wrapper, "SELECT 1")

    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")

    assert seen == []


def test_a_transaction_is_one_connection_from_begin_to_end(databases: Databases) -> None:
    wrapper = databases.add()
    with transaction.atomic(using=wrapper.alias):
        assert pid(wrapper) == pid(wrapper)
        wrapper.close_if_unusable_or_obsolete()
        assert on_loan(wrapper) == 1

    wrapper.close_if_unusable_or_obsolete()
    assert on_loan(wrapper) == 0


def test_closing_inside_atomic_gives_back_and_lets_nothing_more_happen_in_the_block(
    databases: Databases,
) -> None:
    wrapper = databases.add()
    with transaction.atomic(using=wrapper.alias), transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
        wrapper.close()
        assert on_loan(wrapper) == 0
        with pytest.raises(ProgrammingError, match="atomic block"):
            value(wrapper, "SELECT 1")

    assert value(wrapper, "SELECT 1") == 1


def test_an_unfinished_transaction_is_rolled_back_before_the_next_loan(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    wrapper.set_autocommit(False)
    first = pid(wrapper)
    wrapper.close()

    assert pid(wrapper) == first
    assert value(wrapper, "SELECT now() = statement_timestamp()")
    assert wrapper.get_autocommit()
    assert connected(cluster, wrapper) == 1


def test_a_durable_block_refuses_to_be_nested(databases: Databases) -> None:
    wrapper = databases.add()
    with (
        transaction.atomic(using=wrapper.alias),
        pytest.raises(RuntimeError, match="durable"),
        transaction.atomic(using=wrapper.alias, durable=True),
    ):
        pass


def test_the_isolation_level_of_the_settings_holds_for_every_loan(databases: Databases) -> None:
    wrapper = databases.add(options={"isolation_level": IsolationLevel.SERIALIZABLE})
    for _ in range(2):
        with transaction.atomic(using=wrapper.alias):
            assert value(wrapper, "SHOW transaction_isolation") == "serializable"
        assert wrapper.isolation_level == IsolationLevel.SERIALIZABLE
        wrapper.close()


def test_the_isolation_level_of_a_borrower_is_gone_with_it(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    wrapper.ensure_connection()
    wrapper.connection.isolation_level = IsolationLevel.REPEATABLE_READ
    wrapper.connection.read_only = True
    wrapper.close()

    with transaction.atomic(using=wrapper.alias):
        assert value(wrapper, "SHOW transaction_isolation") == "read committed"
        assert value(wrapper, "SHOW transaction_read_only") == "off"


def test_without_autocommit_the_first_statement_begins_a_transaction(databases: Databases) -> None:
    wrapper = databases.add(AUTOCOMMIT=False, pool={"max_size": 1})
    for _ in range(2):
        with wrapper.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE gone (id int)")
        assert not wrapper.get_autocommit()
        wrapper.rollback()
        assert value(wrapper, "SELECT to_regclass('gone')") is None
        wrapper.commit()
        wrapper.close()


def test_without_autocommit_a_request_that_only_read_ends_without_a_warning(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    wrapper = databases.add(AUTOCOMMIT=False)
    with caplog.at_level(logging.WARNING, "django_connpool"):
        value(wrapper, "SELECT 1")
        wrapper.close_if_unusable_or_obsolete()

    assert on_loan(wrapper) == 0
    assert caplog.messages == []


def test_the_transaction_of_a_test_is_rolled_back_with_all_its_savepoints(db: None) -> None:
    assert connection.in_atomic_block
    with transaction.atomic():
        Category.objects.create(name="Books", slug="books")
    with pytest.raises(IntegrityError), transaction.atomic():
        Category.objects.create(name="Books again", slug="books")

    assert Category.objects.count() == 1
    assert connection.pool.snapshot()["in_use"] == 1


def test_the_next_test_finds_nothing_of_it(db: None) -> None:
    assert Category.objects.count() == 0


def test_what_waits_for_a_commit_goes_on_to_wait_when_the_pool_was_closed_meanwhile(
    databases: Databases,
) -> None:
    wrapper = databases.add(pool={"release": "transaction"}, AUTOCOMMIT=False)
    done: list[str] = []
    with transaction.atomic(using="spare"):
        value(wrapper, "SELECT 1")
        transaction.on_commit(lambda: done.append("called"), using="spare")
    transaction.commit(using="spare")
    assert on_loan(wrapper) == 0
    wrapper.pool.close()
    value(wrapper, "SELECT 1")
    transaction.commit(using="spare")
    assert done == []
    transaction.set_autocommit(True, using="spare")
    assert done == ["called"]
