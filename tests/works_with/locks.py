"""Packages that lean on the session: `python -m tests.works_with.locks PACKAGE WAY MODE`.

pglock takes advisory locks, pghistory sets a context for its triggers, procrastinate defers jobs
and opens connections of its own for its worker. Each is used by one request after the other, and
what a second one sees is told.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

from tests.works_with.processes import ENGINES, tell
from tests.works_with.schemas import set_up


def elsewhere(work: Callable[[], Any]) -> Any:
    """What some work in another thread, which is a request of its own, comes to."""
    from django_connpool import scope

    found: list[Any] = []

    def run() -> None:
        with scope("elsewhere"):
            found.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


def value(query: str) -> Any:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def in_use() -> int:
    from django.db import connection

    wrapper: Any = connection
    return int(wrapper.pool.snapshot()["in_use"])


def pglock(way: str, mode: str) -> dict[str, Any]:
    set_up(ENGINES[way], mode, ["pgactivity", "pglock"])
    import pglock as theirs

    from django_connpool import scope

    def try_it() -> bool:
        with theirs.advisory("the lock", timeout=0) as acquired:
            return bool(acquired)

    def whose() -> int:
        return int(value("SELECT pg_backend_pid()"))

    with scope("hold"), theirs.advisory("the lock") as acquired:
        # Between two statements others look for connections, and find the other one.
        held = [whose(), elsewhere(try_it), elsewhere(whose), whose()]
    with scope("timeout"), theirs.timeout(seconds=7):
        inside = value("SHOW lock_timeout")
    return {
        "acquired": bool(acquired),
        "kept": held[0] == held[3] != held[2],
        "refused_meanwhile": not held[1],
        "free_again": elsewhere(try_it),
        "timeouts": [inside, elsewhere(lambda: value("SHOW lock_timeout"))],
        "left": elsewhere(lambda: value("SELECT count(*) FROM pg_locks WHERE locktype='advisory'")),
        "in_use": in_use(),
    }


def pghistory(way: str, mode: str) -> dict[str, Any]:
    set_up(ENGINES[way], mode, ["pgtrigger", "pghistory", "tests.works_with"])
    import pghistory as theirs
    import pgtrigger
    from django.core.management import call_command
    from django.db import connection, models

    from django_connpool import scope

    class Thing(models.Model):
        name: Any = models.CharField(max_length=20)

        class Meta:
            app_label = "works_with"  # not that of a package's own app

    base: Any = theirs.create_event_model(Thing, theirs.InsertEvent(), theirs.UpdateEvent())

    class Event(base):
        class Meta:
            app_label = "works_with"

    with scope("migrate"):
        call_command("migrate", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS works_with_thing, works_with_event CASCADE")
        with connection.schema_editor() as editor:
            editor.create_model(Thing)
            editor.create_model(Event)
        pgtrigger.install(database="default")
    objects: Any = Thing.objects  # type: ignore[attr-defined]
    with scope("with a context"), theirs.context(user="one"):
        thing = objects.create(name="first")
        elsewhere(lambda: objects.create(name="without"))
        thing.name = "second"
        thing.save()
    with scope("after it"):
        objects.create(name="later")
    events = Event.objects.order_by("pgh_id").select_related("pgh_context")
    with scope("look"):
        told = [[event.name, event.pgh_context and event.pgh_context.metadata] for event in events]
    return {"told": told, "in_use": in_use()}


def procrastinate(way: str, mode: str) -> dict[str, Any]:
    set_up(ENGINES[way], mode, ["procrastinate.contrib.django"])
    from django.core.management import call_command
    from procrastinate.contrib.django import app
    from procrastinate.contrib.django.models import ProcrastinateJob

    from django_connpool import scope

    done: list[int] = []

    @app.task(name="tests.add")
    def add(a: int, b: int) -> None:
        done.append(a + b)

    with scope("migrate"):
        call_command("migrate", verbosity=0)
    with scope("defer"):
        add.defer(a=1, b=2)

    async def work() -> None:
        with app.replace_connector(app.connector.get_worker_connector()) as worker:
            async with worker.open_async():
                await worker.run_worker_async(wait=False, install_signal_handlers=False)

    asyncio.run(work())
    with scope("look"):
        states = [str(job.status) for job in ProcrastinateJob.objects.order_by("-id")[:1]]
    return {"done": done, "states": states, "in_use": in_use()}


if __name__ == "__main__":
    tell(globals()[sys.argv[1]](*sys.argv[2:]))
