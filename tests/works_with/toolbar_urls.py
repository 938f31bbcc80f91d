from __future__ import annotations

from debug_toolbar.toolbar import debug_toolbar_urls
from django.urls import path

from tests.works_with.toolbar import page

urlpatterns = [path("", page), *debug_toolbar_urls()]
