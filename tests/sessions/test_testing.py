from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, transaction
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError

from django_connpool.testing import assert_session_stays_clean
from tests.databases import Databases, pid
from tests.pool.real.helpers import until_known
from tests.sessions.corpus import apply


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 3})


def test_what_is_cleaned_passes(wrapper: Any) -> None:
    with assert_session_stays_clean(wrapper.alias):
        apply(wrapper, ("SET work_mem = '7MB'", "CREATE TEMP TABLE t (x int)"))
    with assert_session_stays_clean(wrapper.alias, settings=["app.tenant"]):
        apply(wrapper, ("SET app.tenant = '42'",))


def test_what_was_not_seen_is_listed(wrapper: Any) -> None:
    until_known(wrapper.pool)
    with (
        pytest.raises(AssertionError, match=r"advisory locks.*reset_functions"),
        assert_session_stays_clean(wrapper.alias),
    ):
        wrapper.ensure_connection()
        wrapper.connection.pgconn.exec_(b"SELECT pg_advisory_lock(4711)")


def test_a_setting_of_ones_own_is_looked_at_when_it_is_named(wrapper: Any) -> None:
    until_known(wrapper.pool)

    def set_below_psycopg() -> None:
        wrapper.ensure_connection()
        wrapper.connection.pgconn.exec_(b"SET app.tenant = '42'")

    with assert_session_stays_clean(wrapper.alias):
        set_below_psycopg()
    with (
        pytest.raises(AssertionError, match=r"settings: app\.tenant is '42' instead of None"),
        assert_session_stays_clean(wrapper.alias, settings=["app.tenant"]),
    ):
        set_below_psycopg()


def test_what_functions_do_is_cleaned(wrapper: Any) -> None:
    with assert_session_stays_clean(wrapper.alias, settings=["app.tenant"]):
        apply(wrapper, ("SELECT corpus.hidden_lock()", "SELECT corpus.set_tenant('42')"))


def test_what_a_receiver_sets_up_is_no_leftover(wrapper: Any) -> None:
    def set_up(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET work_mem = '9MB'")

    connection_created.connect(set_up)
    try:
        with assert_session_stays_clean(wrapper.alias):
            apply(wrapper, ("SET work_mem = '7MB'",))
        with wrapper.cursor() as cursor:
            cursor.execute("SHOW work_mem")
            assert cursor.fetchone() == ("9MB",)
    finally:
        connection_created.disconnect(set_up)


def test_inside_an_atomic_block_it_says_what_to_do(wrapper: Any) -> None:
    with (
        transaction.atomic(using=wrapper.alias),
        pytest.raises(TransactionManagementError, match="TransactionTestCase"),
        assert_session_stays_clean(wrapper.alias),
    ):
        pass


def test_without_a_pool_it_says_so(databases: Databases) -> None:
    databases.add("plain", pool=False)
    with (
        pytest.raises(ImproperlyConfigured, match="no pool"),
        assert_session_stays_clean("plain"),
    ):
        pass


def test_strict_makes_a_transaction_left_open_an_error(databases: Databases) -> None:
    wrapper = databases.add("strict", pool={"max_size": 1, "strict": True})
    first = pid(wrapper)
    apply(wrapper, ("BEGIN", "SELECT 'a value' AS culprit"))
    with pytest.raises(ProgrammingError, match=r"after: SELECT \? AS culprit;") as caught:
        wrapper.close()
    assert "in a transaction" in str(caught.value)
    assert wrapper.connection is None
    assert pid(wrapper) == first
