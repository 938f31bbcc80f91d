"""For Celery workers: a task gives back what it borrowed, and the pool outlives it.

Imported by itself where Celery is: see runners.py. Each task becomes a scope under its name, and
background work; a child of the prefork pool says goodbye to the server when it ends.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from celery import signals

from django_connpool.process import ending


def _begin(task: Any, task_id: str, **kwargs: Any) -> None:
    from django_connpool.borrowing import in_background, scope

    # Celery pushes and pops a request for each task, also for those that call each other.
    task.request.connpool_scope = work = ExitStack()
    work.enter_context(scope(f"{task.name}[{task_id}]"))
    work.enter_context(in_background())


def _end(task: Any, **kwargs: Any) -> None:
    work = task.request.get("connpool_scope")
    if work is not None:
        work.__exit__(None, None, None)


def _leave(**kwargs: Any) -> None:
    # A child of Celery's ends with os._exit(), which runs no exit handlers.
    ending.leave()


signals.worker_process_shutdown.connect(_leave, dispatch_uid="django_connpool.leave")
signals.task_prerun.connect(_begin, dispatch_uid="django_connpool.begin")
signals.task_postrun.connect(_end, dispatch_uid="django_connpool.end")
