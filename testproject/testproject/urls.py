"""The addresses of the site: the pool's page and probes, the admin, the shop."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    # pool/ for staff and who has CONNPOOL_TOKEN; pool/live and pool/ready for probes.
    path("pool/", include("django_connpool.urls")),
    path("admin/", admin.site.urls),
    path("", include("shop.urls")),
]
