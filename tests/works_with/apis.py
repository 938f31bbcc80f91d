"""APIs of Django REST framework and Django Ninja: `python -m tests.works_with.apis DEBUG`.

Each is asked while the only connection is on loan, and what it answers is told.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

from tests.works_with.processes import ENGINES, database, tell


def urlpatterns() -> list[Any]:
    from asgiref.sync import sync_to_async
    from django.db import connection
    from django.urls import path
    from ninja import NinjaAPI
    from rest_framework.response import Response
    from rest_framework.views import APIView, exception_handler

    def query() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return int(cursor.fetchone()[0])

    class View(APIView):
        authentication_classes = ()

        def get(self, request: Any) -> Response:
            return Response({"found": query()})

    class Careful(View):
        """Whose errors all become answers."""

        def get_exception_handler(self) -> Any:
            return lambda error, context: (
                exception_handler(error, context) or Response({"detail": "failed"}, status=500)
            )

    api = NinjaAPI()

    @api.get("/sync")
    def sync(request: Any) -> dict[str, int]:
        return {"found": query()}

    @api.get("/async")
    async def asynchronous(request: Any) -> dict[str, int]:
        return {"found": await sync_to_async(query)()}

    return [
        path("drf/", View.as_view()),
        path("careful/", Careful.as_view()),
        path("ninja/", api.urls),
    ]


def main(debug: str) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": database(ENGINES["engine"], {"max_size": 1, "timeout": 0.05})},
        DEBUG=debug == "debug",
        INSTALLED_APPS=["django_connpool", "corsheaders", "rest_framework"],
        CORS_ALLOW_ALL_ORIGINS=True,
        MIDDLEWARE=[
            "django_connpool.middleware.ConnectionPoolMiddleware",
            "corsheaders.middleware.CorsMiddleware",
        ],
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
        SECRET_KEY="only for tests",
        USE_TZ=True,
    )
    django.setup()
    settings.ROOT_URLCONF = tuple(urlpatterns())

    from django.db import connection
    from django.test import AsyncClient, Client

    class Records(logging.Handler):
        names: list[str] = []  # noqa: RUF012

        def emit(self, record: logging.LogRecord) -> None:
            self.names.append(record.name)

    logging.getLogger("django_connpool").addHandler(Records())
    pool, taken, go_on = connection.pool, threading.Event(), threading.Event()

    def hold() -> None:
        with pool.connection(60):
            taken.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)

    def shown(response: Any) -> list[Any]:
        headers = response.headers
        return [
            response.status_code,
            headers.get("Retry-After"),
            headers.get("Content-Type", "").partition(";")[0],
            headers.get("Access-Control-Allow-Origin"),
        ]

    headers = {"accept": "application/json", "origin": "https://other.example"}
    addresses = ("/drf/", "/careful/", "/ninja/sync", "/ninja/async")
    told = {}
    for address in addresses:
        sync, other = Client(), AsyncClient()
        sync.raise_request_exception = other.raise_request_exception = False
        told[address] = shown(sync.get(address, headers=headers))
        told["asgi " + address] = shown(asyncio.run(other.get(address, headers=headers)))
    go_on.set()
    thread.join()
    well = [shown(Client().get(address, headers=headers))[0] for address in addresses]
    tell({"busy": told, "well": well, "logged": Records.names})


if __name__ == "__main__":
    main(*sys.argv[1:])
