"""An interrupt at every line of releasing early: no loan stays, and nothing is held for ever."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, transaction

import django_connpool
from django_connpool import ConnectionPool, scopes
from tests import inside
from tests.databases import Databases, in_hand, in_thread, value
from tests.interrupter import Interrupter, is_safe
from tests.pool.real.helpers import until_known

CODE = inside.code_of_releasing()


def interrupter(n: int) -> Interrupter:
    return Interrupter(
        n, KeyboardInterrupt, lambda frame: frame.f_code.co_filename in CODE, is_safe
    )


def statements(wrapper: Any) -> None:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 2")
        cursor.executemany("SELECT %s", [(1,), (2,)])


def block(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
    value(wrapper, "SELECT 2")


def nested(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        with transaction.atomic(using=wrapper.alias), transaction.atomic(using=wrapper.alias):
            value(wrapper, "SELECT 1")
        with transaction.atomic(using=wrapper.alias):
            pass


def failing_block(wrapper: Any) -> None:
    with suppress(ZeroDivisionError), transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
        raise ZeroDivisionError


def kept(wrapper: Any) -> None:
    with django_connpool.pinned(wrapper.alias):
        value(wrapper, "SELECT 1")
    with wrapper.cursor() as cursor:
        with cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            list(copy)
        list(cursor.stream("SELECT 1"))


def other_mode(wrapper: Any) -> None:
    with django_connpool.hold("request", wrapper.alias):
        value(wrapper, "SELECT 1")


def piece_by_piece(wrapper: Any) -> None:
    with wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 300)")
        cursor.fetchmany(2)


def with_state(wrapper: Any) -> None:
    value(wrapper, "SELECT set_config('app.tenant', '42', false)")
    value(wrapper, "SELECT 1")


def awaited(wrapper: Any) -> None:
    somebody_waits = mock.patch.object(ConnectionPool, "is_awaited", True)
    with django_connpool.scope("work"), somebody_waits:
        statements(wrapper)
        inside.take_all(wrapper.pool)
        statements(wrapper)
        assert wrapper.connection is not None
        statements(wrapper)


def ended_from_afar(wrapper: Any) -> None:
    with scopes.entered("work") as work:
        value(wrapper, "SELECT 1")
        work.end()
        wrapper.end_from_afar(work.life)


SCENES = [
    *(statements, block, nested, failing_block, kept, other_mode, piece_by_piece, with_state),
    awaited,
    ended_from_afar,
]


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a server-side cursor was left open
@pytest.mark.usefixtures("little_garbage")
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
def test_no_loan_stays_behind(
    scene: Callable[[Any], None], release: str, databases: Databases
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": release, "timeout": 10})
    until_known(wrapper.pool)  # else no statement ends the short way
    scene(wrapper)
    wrapper.close()

    def somebody_else() -> Any:
        from django.db import connections

        return value(connections[wrapper.alias], "SELECT 1")

    for n in range(1, 2000):
        interrupt = interrupter(n)
        struck = False
        with interrupt:
            try:
                scene(wrapper)
            except (KeyboardInterrupt, DatabaseError):  # Django's own, of the rest of a block
                struck = True
        if not interrupt.where:
            break
        if struck:
            gc.collect()
        # Django ends a block for which an interrupt was no reason to clean up; so does a new test.
        wrapper.in_atomic_block = False
        wrapper.close_if_unusable_or_obsolete()
        where = interrupt.where
        assert wrapper.kept == 0, where
        wrapper.set_mode(None)  # as it would be left by one that strikes when it is put back
        assert in_hand(wrapper) is None, where
        assert in_thread(somebody_else) == 1, where
        value(wrapper, "SELECT 1")
        assert in_hand(wrapper) is None, where
        if release == "request":
            wrapper.close()
        assert wrapper.pool.snapshot()["in_use"] == 0, where
    else:
        pytest.fail("the scene does not end")
    assert n > 20
