"""A site with the panel of ours for django-debug-toolbar: `python -m tests.works_with.panel WAY`.

Pages are asked for, and what the panel has recorded and shows of each is told.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from tests.works_with.processes import ENGINES, database, tell

PANEL = "django_connpool.contrib.toolbar.ConnectionsPanel"


def _answer() -> Any:
    from django.http import HttpResponse

    # Into a page of HTML the toolbar would be put itself; of others it tells its number.
    return HttpResponse("all is well", content_type="text/plain")


def nothing(request: Any) -> Any:
    return _answer()


def quick(request: Any) -> Any:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return _answer()


def in_atomic(request: Any) -> Any:
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT '<script>alert(1)</script>' AS \"<b>\"")
        cursor.execute("SELECT 2")
    return _answer()


def with_state(request: Any) -> Any:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '5MB'")
        cursor.execute("SELECT 3")
    return _answer()


async def in_async(request: Any) -> Any:
    from asgiref.sync import sync_to_async

    await sync_to_async(quick)(request)
    return _answer()


def twice(request: Any) -> Any:
    from django.db import connection

    quick(request)
    connection.close()
    return quick(request)


def waits(request: Any) -> Any:
    """Waits for another thread, which has the only connection."""
    from django.db import connection

    from tests.testproject.processes import wait_until

    pool, taken = connection.pool, threading.Event()

    def hold() -> None:
        with pool.connection(60):
            taken.set()
            wait_until(lambda: pool.is_awaited, "somebody waits")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    quick(request)
    thread.join()
    return _answer()


def in_vain(request: Any) -> Any:
    from django.db import OperationalError, connection

    with connection.pool.connection():
        try:
            quick(request)
        except OperationalError:
            return _answer()
    return None


PAGES = (nothing, quick, in_atomic, with_state, in_async, twice, waits, in_vain)
PATHS = tuple(page.__name__ for page in PAGES)


def main(way: str) -> None:
    import django
    from django.conf import settings

    pool = {"max_size": 1, "timeout": 3}
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": database(ENGINES[way], pool)},
        DEBUG=True,
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True},
        DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.history.HistoryPanel", PANEL],
        INSTALLED_APPS=["django_connpool", "django.contrib.staticfiles", "debug_toolbar"],
        MIDDLEWARE=[
            "django_connpool.middleware.ConnectionPoolMiddleware",
            "debug_toolbar.middleware.DebugToolbarMiddleware",
        ],
        ROOT_URLCONF="tests.works_with.panel_urls",
        SECRET_KEY="only for tests",
        STATIC_URL="static/",
        TEMPLATES=[
            {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
        ],
        USE_TZ=True,
    )
    django.setup()

    from debug_toolbar.toolbar import DebugToolbar
    from django.db import connection
    from django.test import AsyncClient, Client
    from django.urls import reverse

    from django_connpool import signals

    def shown(response: Any) -> dict[str, Any]:
        toolbar_id = response.headers["djdt-request-id"]
        toolbar = DebugToolbar.fetch(toolbar_id)
        panel = toolbar.get_panel_by_id("ConnectionsPanel")
        asked = {"request_id": toolbar_id, "panel_id": "ConnectionsPanel"}
        content = Client().get(reverse("djdt:render_panel"), asked).json()["content"]
        return {
            "status": response.status_code,
            "stats": json.loads(json.dumps(panel.get_stats())),
            "title": panel.nav_subtitle,
            "timing": response.headers.get("Server-Timing", ""),
            "content": content,
        }

    Client().get("/quick/")
    told: dict[str, Any] = {}
    for name in PATHS:
        told[name] = shown(Client().get(f"/{name}/"))
    told["asgi"] = shown(asyncio.run(AsyncClient().get("/in_async/")))
    off = Client()
    off.cookies.load({"djdtConnectionsPanel": "off"})
    off.get("/quick/")
    told["in_use"] = connection.pool.snapshot()["in_use"]
    told["receivers"] = len(signals.borrow_timed_out.receivers)
    tell(told)


if __name__ == "__main__":
    main(*sys.argv[1:])
