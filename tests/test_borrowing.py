from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

import django_connpool
from tests.cluster import Server
from tests.databases import Databases, connected, in_thread, on_loan, pid
from tests.testproject.processes import wait_until


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add()


def test_release_gives_back_now_and_the_next_query_borrows_again(spare: Any) -> None:
    first = pid(spare)
    django_connpool.release()
    assert on_loan(spare) == 0

    assert pid(spare) == first
    assert on_loan(spare) == 1


def test_release_of_one_alias_leaves_the_others(spare: Any, databases: Databases) -> None:
    other = databases.add("second")
    pid(spare), pid(other)
    django_connpool.release("second")

    assert (on_loan(spare), on_loan(other)) == (1, 0)


def test_release_inside_atomic_does_nothing(spare: Any) -> None:
    with transaction.atomic(using="spare"):
        first = pid(spare)
        django_connpool.release()
        assert pid(spare) == first


def test_release_leaves_a_connection_that_is_not_pooled(
    databases: Databases, cluster: Server
) -> None:
    plain = databases.add(pool=False)
    first = pid(plain)
    django_connpool.release("spare")
    django_connpool.release()

    assert pid(plain) == first


def test_release_leaves_the_loans_of_other_threads(spare: Any) -> None:
    pid(spare)
    in_thread(django_connpool.release)

    assert on_loan(spare) == 1


def test_release_with_nothing_borrowed_makes_no_pool(spare: Any) -> None:
    before = len(django_connpool.registry.live())
    django_connpool.release()

    assert len(django_connpool.registry.live()) == before


def test_release_of_an_unknown_alias_says_so() -> None:
    with pytest.raises(Exception, match="nowhere"):
        django_connpool.release("nowhere")


def test_released_is_a_block_without_a_connection(spare: Any) -> None:
    pid(spare)
    with django_connpool.released():
        assert on_loan(spare) == 0
        assert spare.connection is None
    assert pid(spare)


def test_released_refuses_inside_atomic_and_leaves_the_transaction(spare: Any) -> None:
    with transaction.atomic(using="spare"):
        first = pid(spare)
        with (
            pytest.raises(TransactionManagementError, match="'spare'"),
            django_connpool.released(),
        ):
            pytest.fail("the block was entered")
        assert pid(spare) == first


def test_released_refuses_in_a_transaction_without_atomic(spare: Any) -> None:
    spare.set_autocommit(False)
    with pytest.raises(TransactionManagementError), django_connpool.released("spare"):
        pytest.fail("the block was entered")
    assert on_loan(spare) == 1


def test_released_gives_nothing_back_when_one_of_several_is_in_a_transaction(
    spare: Any, databases: Databases
) -> None:
    other = databases.add("second")
    pid(spare)
    with (
        transaction.atomic(using="second"),
        pytest.raises(TransactionManagementError),
        django_connpool.released(),
    ):
        pytest.fail("the block was entered")
    assert on_loan(spare) == 1
    assert on_loan(other) == 0 or other.connection is not None


def test_warm_opens_the_minimum_of_every_pool(databases: Databases, cluster: Server) -> None:
    first = databases.add("spare", pool={"min_size": 2})
    second = databases.add("second", pool={"min_size": 1})
    django_connpool.warm()

    for wrapper, least in ((first, 2), (second, 1)):
        wait_until(
            lambda wrapper=wrapper, least=least: connected(cluster, wrapper) == least,
            "min_size connections are open",
        )


def test_warm_keeps_the_minimum_when_connections_die(databases: Databases, cluster: Server) -> None:
    wrapper = databases.add(pool={"min_size": 2})
    django_connpool.warm()
    wait_until(lambda: wrapper.pool.snapshot()["idle"] == 2, "two connections are open")
    name = wrapper.settings_dict["OPTIONS"]["application_name"]
    assert cluster.terminate(application_name=name) == 2

    assert pid(wrapper)
    wait_until(lambda: connected(cluster, wrapper) == 2, "two connections are open again")


def test_warm_makes_no_pool_where_there_is_no_minimum(spare: Any) -> None:
    before = connections["spare"].pool.get_stats()["connections_num"]
    django_connpool.warm()

    assert spare.pool.get_stats()["connections_num"] == before == 0


def test_a_command_opens_one_connection_whatever_the_minimum(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(pool={"min_size": 4})
    pid(wrapper)

    assert wrapper.pool.snapshot()["size"] == 1
    assert connected(cluster, wrapper) == 1
