"""Pooling over the wrapper of a real package, django-prometheus.

It puts a counting class over the cursor factory of each connection it opens. Where a pool hides
behind `get_new_connection`, that happens at each borrow, over the last one's, without end.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from tests.databases import Databases, pid, value

pytest.importorskip("django_prometheus", reason="not for this Django yet")

SLACK = 64 * 1024  # bytes by which caches of the interpreter may grow meanwhile


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    return databases.add(engine="tests.backends.prometheus", pool={"max_size": 1})


def borrow(wrapper: Any, times: int) -> None:
    for _ in range(times):
        wrapper.ensure_connection()
        wrapper.close()


def metric(name: str, alias: str) -> float:
    from prometheus_client import REGISTRY

    labels = {"alias": alias, "vendor": "postgresql"}
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_queries_and_physical_connections_are_counted(wrapper: Any) -> None:
    opened = metric("django_db_new_connections_total", "spare")
    pid(wrapper)
    queries = metric("django_db_execute_total", "spare")
    for _ in range(3):
        wrapper.close()
        pid(wrapper)

    assert metric("django_db_execute_total", "spare") == queries + 3
    assert metric("django_db_new_connections_total", "spare") == opened + 1


def test_an_error_is_counted_and_reaches_the_caller(wrapper: Any) -> None:
    from django.db import DataError

    with pytest.raises(DataError):
        value(wrapper, "SELECT 1 / 0")

    assert pid(wrapper)


@pytest.mark.stress
def test_a_hundred_thousand_borrows_leave_the_cursor_factory_and_the_memory_as_they_were(
    wrapper: Any,
) -> None:
    wrapper.ensure_connection()
    factory = wrapper.connection.cursor_factory
    depth = len(factory.__mro__)
    wrapper.close()
    tracemalloc.start()
    try:
        borrow(wrapper, 1_000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        borrow(wrapper, 99_000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    wrapper.ensure_connection()

    assert wrapper.connection.cursor_factory is factory
    assert len(factory.__mro__) == depth
    assert after - before < SLACK
