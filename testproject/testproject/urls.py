from __future__ import annotations

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("shop.urls")),
]
if apps.is_installed("django_connpool"):
    urlpatterns.insert(0, path("pool/", include("django_connpool.urls")))
