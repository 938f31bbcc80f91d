"""Work begins with nothing that was held before, and does not look at what holds nothing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from django.db import close_old_connections, transaction

from django_connpool import holders, scope
from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from tests import inside
from tests.databases import DEADLINE, Databases, in_hand, on_loan, pid, value
from tests.pool.real.helpers import until_known


def test_what_was_put_in_the_hand_goes_back(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pid(wrapper)
    wrapper.close()
    wrapper.connection = wrapper.pool.getconn()
    with scope("work"):
        assert on_loan(wrapper) == 0


def test_a_lost_block_is_ended_also_when_its_connection_was_closed(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    block = transaction.atomic(using=wrapper.alias)
    block.__enter__()
    wrapper.close()
    assert wrapper.in_atomic_block and in_hand(wrapper) is None
    del block  # as an interrupt loses it
    with scope("work"):
        assert not wrapper.in_atomic_block
        assert value(wrapper, "SELECT 1") == 1


@pytest.mark.parametrize("release", ["auto", "transaction"])
def test_work_goes_by_the_settings_as_they_are_when_it_begins(
    databases: Databases, release: str
) -> None:
    wrapper = databases.add(pool={"max_size": 1, "release": release})
    first = pid(wrapper)
    wrapper.settings_dict["OPTIONS"]["application_name"] += "-later"
    with scope("work"):
        assert pid(wrapper) != first


def test_what_holds_nothing_is_not_asked(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrappers = [databases.add(f"spare{number}", pool={"max_size": 1}) for number in range(3)]
    asked: list[Any] = []
    before_work = PooledDatabaseWrapperMixin.before_work

    def note(self: Any) -> None:
        asked.extend([self] * (self in wrappers))
        before_work(self)

    monkeypatch.setattr(PooledDatabaseWrapperMixin, "before_work", note)
    with scope("one"):
        for wrapper in wrappers:
            pid(wrapper)
    with scope("two"):
        assert asked == []
    pid(wrappers[1])
    with scope("three"):
        assert asked == [wrappers[1]]


def holds(wrapper: Any) -> bool:
    return (
        in_hand(wrapper) is not None
        or bool(wrapper.offer)
        or wrapper.resumes is not None
        or wrapper.in_atomic_block
    )


def put_in_the_hand(wrapper: Any) -> None:
    wrapper.close()
    wrapper.connection = wrapper.pool.getconn()


def lose_a_block(wrapper: Any) -> None:
    block = transaction.atomic(using=wrapper.alias)
    block.__enter__()


def take_what_is_on_offer(wrapper: Any) -> None:
    pid(wrapper)
    wrapper.surrender()


def set_something(wrapper: Any) -> None:
    value(wrapper, "SELECT set_config('app.tenant', '7', false)")


STEPS: dict[str, Callable[[Any], object]] = {
    step.__name__: step
    for step in (pid, put_in_the_hand, lose_a_block, take_what_is_on_offer, set_something)
}


@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
@pytest.mark.parametrize("step", STEPS)
def test_an_alias_that_holds_something_does_not_call_itself_idle(
    databases: Databases, step: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER)
    wrapper = databases.add(pool={"max_size": 2, "release": release, "timeout": DEADLINE})
    until_known(wrapper.pool)
    assert wrapper.is_idle
    for _ in range(3):  # the second may go on with what the first has parked
        STEPS[step](wrapper)
        assert holds(wrapper) and not wrapper.is_idle
        close_old_connections()
        assert not holds(wrapper)
    assert on_loan(wrapper) == 0


def test_an_alias_that_holds_nothing_is_told_by_one_look(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    with scope("one"):
        pid(wrapper)
    for name in ("end_work", "_end_work", "end_lost_block", "before_work"):
        monkeypatch.setattr(PooledDatabaseWrapperMixin, name, None)
    close_old_connections()
    with scope("two"):
        assert wrapper.is_idle


def test_a_wrapper_that_was_dropped_is_forgotten(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pid(wrapper)
    before = len(holders.of_this_thread())
    for _ in range(20):
        copy = wrapper.copy()
        with copy.cursor() as cursor:
            cursor.execute("SELECT 1")
        del copy, cursor
    gc.collect()
    assert len(holders.of_this_thread()) <= before


def test_threads_may_begin_while_all_are_looked_at(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pid(wrapper)
    begun, over = [], threading.Event()

    def begin() -> None:
        is_noted = threading.Event()
        thread = threading.Thread(
            target=lambda: (holders.of_this_thread(), is_noted.set(), over.wait(DEADLINE))
        )
        thread.start()
        begun.append(thread)
        assert is_noted.wait(DEADLINE)

    with inside.between_steps_of(weakref, begin, at_most=20):
        found = holders.anywhere()
    over.set()
    for thread in begun:
        thread.join(DEADLINE)
    assert begun and wrapper in found
