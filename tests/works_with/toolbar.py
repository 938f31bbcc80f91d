"""A site with django-debug-toolbar: `python -m tests.works_with.toolbar WAY MODE`.

A page whose view makes several statements is asked for, and what its SQL panel has recorded told.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.works_with.processes import ENGINES, database, tell


def page(request: Any) -> Any:
    from django.contrib.contenttypes.models import ContentType
    from django.db import connection, transaction
    from django.http import HttpResponse

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 2")
        cursor.executemany("SELECT %s", [(3,), (4,)])
    with transaction.atomic():
        list(ContentType.objects.all())
    list(ContentType.objects.filter(pk=5))
    list(ContentType.objects.filter(pk=6).iterator())
    return HttpResponse("<html><body>all is well</body></html>")


def main(way: str, mode: str) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": database(ENGINES[way], {"max_size": 2, "release": mode})},
        DEBUG=True,
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True},
        DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.sql.SQLPanel"],
        INSTALLED_APPS=[
            "django_connpool",
            "django.contrib.contenttypes",
            "django.contrib.staticfiles",
            "debug_toolbar",
        ],
        MIDDLEWARE=[
            "django_connpool.middleware.ConnectionPoolMiddleware",
            "debug_toolbar.middleware.DebugToolbarMiddleware",
        ],
        ROOT_URLCONF="tests.works_with.toolbar_urls",
        SECRET_KEY="only for tests",
        STATIC_URL="static/",
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)

    from debug_toolbar.panels.sql.panel import SQLPanel
    from django.db import connection
    from django.test import Client

    connection.close()
    panels: list[Any] = []
    generate = SQLPanel.generate_stats

    def keep(panel: Any, *args: Any) -> Any:
        panels.append(panel)
        return generate(panel, *args)

    SQLPanel.generate_stats = keep
    answers = [Client().get("/") for _ in range(2)]
    tell(
        {
            "answers": [
                [answer.status_code, "all is well" in str(answer.content)] for answer in answers
            ],
            "recorded": [[query["sql"] for query in panel._queries] for panel in panels],
            "in_use": connection.pool.snapshot()["in_use"],
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
