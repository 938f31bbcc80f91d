"""Django's tasks (6.0 and later, or django-tasks): each gives back what it borrowed at its end.

Whatever backend runs them, in a thread or a process of its own, sends these signals in it.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any

from .borrowing import in_background, scope

_running: dict[str, ExitStack] = {}  # by the id of the task's result


def connect(package: str = "django.tasks") -> None:
    """Called once Django is set up, where it has tasks of that package."""
    signals: Any = import_module(f"{package}.signals")
    signals.task_started.connect(_begin, dispatch_uid="django_connpool.begin")
    signals.task_finished.connect(_end, dispatch_uid="django_connpool.end")


def _begin(task_result: Any, **kwargs: Any) -> None:
    work = _running[task_result.id] = ExitStack()
    work.enter_context(scope(f"{task_result.task.module_path}[{task_result.id}]"))
    work.enter_context(in_background())


def _end(task_result: Any, **kwargs: Any) -> None:
    work = _running.pop(task_result.id, None)
    if work is not None:
        work.__exit__(None, None, None)
