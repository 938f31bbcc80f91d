"""A site that has mounted the page, beside the admin and a view that leaks."""

from __future__ import annotations

from django.contrib import admin
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

leaked: list[object] = []


def leak(request: HttpRequest, rest: str) -> HttpResponse:
    """Borrow a connection and never give it back."""
    conn = connections["spare"].pool.getconn()  # type: ignore[attr-defined]
    conn.execute("SELECT 1 /* <b>note</b> */ WHERE 'geheim' = %s", ["geheim"])
    leaked.append(conn)
    return HttpResponse("leaked")


urlpatterns = [
    path("pool/", include("django_connpool.urls")),
    path("admin/", admin.site.urls),
    path("leak/<path:rest>", leak),
]
