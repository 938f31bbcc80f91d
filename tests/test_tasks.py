"""Django's tasks, in the thread of whoever enqueues them and in a worker's."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.db import connections, transaction
from django.test import override_settings

from tests.cluster import Server
from tests.databases import DEADLINE, Databases, connected, in_threads, on_loan, pid

if django.VERSION < (6,):
    pytest.skip("there are no tasks", allow_module_level=True)

from django.tasks import task
from django.tasks.backends.immediate import ImmediateBackend

IMMEDIATE = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}
WORKER = {"default": {"BACKEND": "tests.test_tasks.Queued"}}

waiting: queue.Queue[Any] = queue.Queue()


class Queued(ImmediateBackend):
    """A backend whose tasks are done by the threads that call `work`."""

    def _execute_task(self, task_result: Any) -> None:
        waiting.put(task_result)

    def work(self) -> int:
        done = 0
        while (task_result := waiting.get(timeout=DEADLINE)) is not None:
            assert connections["spare"].connection is None
            super()._execute_task(task_result)
            done += 1
        return done


@task
def note(number: int) -> list[str | None]:
    pid(connections["spare"])
    if number % 7 == 3:
        raise RuntimeError("on purpose")
    if number % 7 == 5:
        transaction.set_autocommit(False, using="spare")
    return [loan["note"] for loan in connections["spare"].pool.snapshot()["loans"]]


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2, "timeout": DEADLINE})


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL", logger="django.tasks"):
        yield


@override_settings(TASKS=IMMEDIATE)
def test_a_task_is_named_and_gives_back_at_its_end(spare: Any) -> None:
    result = note.enqueue(1)

    assert result.return_value == [f"tests.test_tasks.note[{result.id}]"]
    assert on_loan(spare) == 0


@override_settings(TASKS=IMMEDIATE)
def test_a_task_that_fails_gives_back(spare: Any) -> None:
    assert note.enqueue(3).status == "FAILED"
    assert on_loan(spare) == 0


@override_settings(TASKS=IMMEDIATE)
def test_a_task_done_at_once_leaves_the_transaction_of_its_caller(spare: Any) -> None:
    with transaction.atomic(using="spare"):
        first = pid(spare)
        note.enqueue(1)

        assert on_loan(spare) == 1
        assert pid(spare) == first


@override_settings(TASKS=IMMEDIATE)
def test_a_thousand_tasks_in_threads_open_no_more_than_the_pool_has_places(
    spare: Any, cluster: Server
) -> None:
    def many() -> None:
        for number in range(250):
            note.enqueue(number)

    in_threads([many] * 4)
    assert on_loan(spare) == 0
    assert spare.pool.get_stats()["connections_num"] <= 2
    assert connected(cluster, spare) <= 2


@override_settings(TASKS=WORKER)
def test_a_worker_that_lives_on_holds_nothing_between_two_tasks(
    spare: Any, cluster: Server
) -> None:
    for number in range(1000):
        note.enqueue(number)
    for _ in range(3):
        waiting.put(None)
    backend = Queued("default", {})
    done = in_threads([backend.work] * 3)

    assert sum(done) == 1000
    assert on_loan(spare) == 0
    assert spare.pool.get_stats()["connections_num"] <= 2
    assert spare.pool.get_stats()["loans_reclaimed"] == 0
