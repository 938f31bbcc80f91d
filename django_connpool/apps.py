"""Django's entry: what is set up when the project has loaded its apps."""

from __future__ import annotations

import sys

import django
from django.apps import AppConfig


class ConnectionPoolConfig(AppConfig):
    name = "django_connpool"
    verbose_name = "Connection pool"
    default_auto_field = "django.db.models.BigAutoField"  # of what stands for the page in the admin

    def ready(self) -> None:
        from . import checks, runners, signals, tasks
        from .status import server

        checks.register()
        signals.connecting.connect(server.start, dispatch_uid="django_connpool.status")
        if django.VERSION >= (6,):
            tasks.connect()
        if "django_tasks" in sys.modules:  # for Django before 6.0; apps are imported by now
            tasks.connect("django_tasks")
        runners.connect()
