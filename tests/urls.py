from __future__ import annotations

from django.contrib import admin
from django.urls import path

from tests import views

urlpatterns = [
    path("ping/", views.ping),
    path("admin/", admin.site.urls),
    *(
        path(f"{view.__name__}/", view)
        for view in (
            views.async_backend,
            views.async_fails,
            views.async_slow,
            views.async_stream,
            views.atomic,
            views.backend,
            views.cursor_stream,
            views.fails,
            views.file,
            views.in_transaction,
            views.nested,
            views.second,
            views.slow,
            views.stream,
            views.stream_nothing,
        )
    ),
]
