"""For Celery workers: a task gives back what it borrowed, and the pool outlives it.

In the module of your Celery app:

    import django_connpool.contrib.celery

That is all, for prefork, threads and gevent alike. (An entry "django_connpool.contrib.celery"
in INSTALLED_APPS does the same.)

Why it is needed: Celery's own support for Django closes connections before and after each
task, which here gives them back. But it closes pools too, in prefork workers whose DATABASES
have a "pool" in their OPTIONS, lest a forked child use its parent's. This pool sees to that
itself, so in a worker it stays.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from django_connpool.pool import process


def _keep_pools(**kwargs: Any) -> None:
    # The database backend is imported late: this module may be, before Django is set up.
    from django_connpool.backends.mixin import PooledDatabaseWrapperMixin

    PooledDatabaseWrapperMixin.keeps_pool = True


def _keep_pools_no_more(**kwargs: Any) -> None:
    from django_connpool.backends.mixin import PooledDatabaseWrapperMixin

    PooledDatabaseWrapperMixin.keeps_pool = False


def _begin(task: Any, task_id: str, **kwargs: Any) -> None:
    from django_connpool import scope

    work = scope(f"{task.name}[{task_id}]")
    # Celery pushes and pops a request for each task, also for those that call each other.
    task.request.connpool_scope = work
    work.__enter__()


def _end(task: Any, **kwargs: Any) -> None:
    work = task.request.get("connpool_scope")
    if work is not None:
        work.__exit__(None, None, None)


def _leave(**kwargs: Any) -> None:
    # A child of Celery's ends with os._exit(), which runs no exit handlers.
    process.leave()


signals.worker_init.connect(_keep_pools, dispatch_uid="django_connpool.keep")
signals.worker_process_init.connect(_keep_pools, dispatch_uid="django_connpool.keep")
signals.worker_shutdown.connect(_keep_pools_no_more, dispatch_uid="django_connpool.keep_no_more")
signals.worker_process_shutdown.connect(_leave, dispatch_uid="django_connpool.leave")
signals.task_prerun.connect(_begin, dispatch_uid="django_connpool.begin")
signals.task_postrun.connect(_end, dispatch_uid="django_connpool.end")
