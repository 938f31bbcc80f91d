from __future__ import annotations

import django
from django.apps import AppConfig


class ConnectionPoolConfig(AppConfig):
    name = "django_connpool"
    verbose_name = "Connection pool"

    def ready(self) -> None:
        from . import checks, signals, tasks
        from .status import server

        checks.register()
        signals.connecting.connect(server.start, dispatch_uid="django_connpool.status")
        if django.VERSION >= (6,):
            tasks.connect()
