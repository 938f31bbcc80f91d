"""Runners of tasks that are told of without an import of ours in anybody's project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from django_connpool import runners
from tests.databases import Databases, pid
from tests.testproject.processes import wait_until

# What Celery's support for Django does after each task in a child of the prefork pool.
AFTER_A_TASK = """
def close_database(connection, through):
    connection.close()
    through(connection.close_pool)
"""


def after_a_task(module: str) -> Callable[..., None]:
    namespace: dict[str, Any] = {"__name__": module}
    exec(AFTER_A_TASK, namespace)
    close: Callable[..., None] = namespace["close_database"]
    return close


def call(function: Callable[[], None]) -> None:
    function()


def through_tools(function: Callable[[], None]) -> None:
    """As if tools that trace had wrapped it."""
    call(lambda: call(lambda: call(function)))


@pytest.mark.parametrize("through", [call, through_tools])
def test_the_pool_outlives_what_celery_does_after_each_task(
    databases: Databases, through: Callable[..., None]
) -> None:
    spare = databases.add(pool={"max_size": 1})
    first = pid(spare)
    for _ in range(5):
        after_a_task(runners.CELERYS_SUPPORT_FOR_DJANGO)(spare, through)
        assert pid(spare) == first


def test_nobody_elses_wish_to_close_it_is_ignored(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 1})
    pid(spare)
    pool = spare.pool
    after_a_task("theirs")(spare, call)
    assert pool.closed
    wait_until(lambda: pool.snapshot()["size"] == 0, "its connection is closed")


def test_celerys_support_for_django_is_where_it_is_looked_for() -> None:
    fixups = pytest.importorskip("celery.fixups.django")
    assert fixups.__name__ == runners.CELERYS_SUPPORT_FOR_DJANGO
    code = fixups.DjangoWorkerFixup._close_database.__code__
    assert "close_pool" in code.co_names
    # It is called from this module itself, so that the name is at most a few frames away.
    assert fixups.DjangoWorkerFixup._close_database.__module__ == fixups.__name__


SETTINGS = """
import sys
{before}
from django.conf import settings
settings.configure(INSTALLED_APPS=["django_connpool"])
import django
django.setup()
{after}
import django_connpool.registry
print(*sorted(name for name in sys.modules if "celery" in name))
"""


def loaded(before: str = "", after: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SETTINGS.format(before=before, after=after)],
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_nobody_pays_for_celery_who_has_not_imported_it() -> None:
    assert loaded() == []


def test_a_module_of_that_name_that_is_not_celery_is_no_reason_to_fail() -> None:
    assert loaded("import types; sys.modules['celery'] = types.ModuleType('celery')") == ["celery"]


@pytest.mark.parametrize("late", [False, True])
def test_where_celery_is_its_tasks_are_told_of(late: bool) -> None:
    pytest.importorskip("celery")
    after = "import celery; from django_connpool import runners; runners.connect()"
    found = loaded(after=after) if late else loaded("import celery")
    assert "django_connpool.contrib.celery" in found
