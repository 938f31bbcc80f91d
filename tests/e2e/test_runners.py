"""What runners of tasks call at the end of a job, in a thread that lives on: it gives back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import processes

pytestmark = [pytest.mark.e2e, pytest.mark.ways, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]

COMMON = """
import os, threading, warnings
os.environ["DJANGO_SETTINGS_MODULE"] = "jobs"
import django
django.setup()
from django.db import connection

seen = []

def query():
    # What an earlier job has left in this thread.
    left = connection.connection is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        seen.append((left, cursor.fetchone()[0], connection.pool.snapshot()["loans"][0]["note"]))

def all_is_back():
    assert not connection.pool.snapshot()["in_use"], connection.pool.snapshot()
    assert len({backend for _, backend, _ in seen}) == 1, seen
    assert not any(left for left, _, _ in seen), seen
"""

SETTINGS = """
from settings import *
INSTALLED_APPS = ["django_connpool", {apps}]
{more}
"""

DRAMATIQ = """
import dramatiq

broker = dramatiq.get_broker()

@dramatiq.actor
def job():
    query()

worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
worker.start()
for _ in range(5):
    job.send()
broker.join("default")
worker.join()
all_is_back()
worker.stop()
"""

DRAMATIQ_SETTINGS = """
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": ["django_dramatiq.middleware.DbConnectionsMiddleware"],
}
"""

HUEY = """
from huey.contrib.djhuey import HUEY, db_task

@db_task()
def job():
    query()

def work():
    for _ in range(5):
        job()
        HUEY.execute(HUEY.dequeue())
    all_is_back()
    done.append(True)

done = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert done
"""

CHANNELS = """
import asyncio
from channels.db import database_sync_to_async

async def work():
    for _ in range(5):
        await database_sync_to_async(query)()
        all_is_back()

asyncio.run(work())
"""

DJANGO_TASKS = """
from django_tasks import task
import jobs_of_theirs

for _ in range(5):
    jobs_of_theirs.job.enqueue()
assert len({note for _, _, note in seen}) == 5, seen
assert all(note.startswith("jobs_of_theirs.job[") for _, _, note in seen), seen
all_is_back()
"""

JOB = """
from django_tasks import task

@task()
def job():
    import __main__
    __main__.query()
"""


@pytest.mark.parametrize(
    ("package", "script", "apps", "more"),
    [
        ("django_dramatiq", DRAMATIQ, '"django_dramatiq"', DRAMATIQ_SETTINGS),
        (
            "huey",
            HUEY,
            '"huey.contrib.djhuey"',
            ('HUEY = {"huey_class": "huey.MemoryHuey", "immediate": False, "name": "tiny"}'),
        ),
        ("channels", CHANNELS, "", ""),
        (
            "django_tasks",
            DJANGO_TASKS,
            '"django_tasks"',
            'TASKS = {"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}}',
        ),
    ],
    ids=["dramatiq", "huey", "channels", "django-tasks"],
)
def test_it_gives_back(
    project: Path, tiny_environ: Environ, package: str, script: str, apps: str, more: str
) -> None:
    pytest.importorskip(package)
    (project / "jobs.py").write_text(SETTINGS.format(apps=apps, more=more))
    (project / "jobs_of_theirs.py").write_text(JOB)
    (project / "work.py").write_text(COMMON + script)
    processes.run(project, "work.py", **tiny_environ(max_size=2, timeout=5))
