"""Runners of tasks, and Sentry, known by what is imported: nothing is imported for the question."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from importlib import import_module

CELERYS_SUPPORT_FOR_DJANGO = "celery.fixups.django"
INTEGRATIONS = {
    "celery": "django_connpool.contrib.celery",
    "sentry_sdk": "django_connpool.contrib.sentry",
}
DEEPEST = 9  # frames looked at; there may be some of tools that trace between us and Celery


def connect() -> None:
    """Have each task of a runner that is there give back at its end, and Sentry see who waits.

    To do it again is free.
    """
    for package, integration in INTEGRATIONS.items():
        if package in sys.modules:
            # It may be in the middle of its own import, or something else of that name.
            with suppress(ImportError):
                import_module(integration)


def is_celery_asking() -> bool:
    """Whether this is called, not far down, by what Celery does before and after each task."""
    frame = inspect.currentframe()
    for _ in range(DEEPEST):
        frame = frame.f_back if frame is not None else None
        if frame is not None and frame.f_globals.get("__name__") == CELERYS_SUPPORT_FOR_DJANGO:
            return True
    return False
