"""The page in Django's admin: an entry of its index, without a model in the database.

The admin lists models. This one is in no registry of apps, so nothing else knows it: it has no
table, no migration, no content type and no permissions, and is in no dump.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.apps.registry import Apps
from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, re_path

from django_connpool.web import access, page, probes


class Pool(models.Model):
    """What stands for the page in the admin's index."""

    class Meta:
        apps = Apps()
        app_label = "django_connpool"
        managed = False
        verbose_name = "connection pool"


if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Pool]
else:
    ModelAdmin = admin.ModelAdmin


class PoolAdmin(ModelAdmin):
    """The page where the admin has the list of a model's rows; nothing to add or to change."""

    def get_urls(self) -> list[URLPattern]:
        names = "page.css", "page.js", "icon.svg"
        files = "|".join(name.replace(".", r"\.") for name in names)
        return [
            path("", self._guarded(page.page), name="django_connpool_pool_changelist"),
            path("status.json", self._guarded(probes.status)),
            path("act", self._guarded(page.act)),
            path("enter", page.enter),
            re_path(rf"^(?P<name>{files})$", page.asset),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.admin_site.has_permission(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.admin_site.has_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _guarded(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """A view for whom the admin lets in; by the token where the database cannot be asked."""
        for_staff: Any = self.admin_site.admin_view(view)

        def answer(request: HttpRequest) -> HttpResponse:
            if access.has_token(request) or not access.can_ask():
                return view(request)
            response: HttpResponse = for_staff(request)
            return response

        answer._non_atomic_requests = view._non_atomic_requests  # type: ignore[attr-defined]
        return answer


admin.site.register(Pool, PoolAdmin)
