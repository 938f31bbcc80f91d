from __future__ import annotations

from debug_toolbar.toolbar import debug_toolbar_urls
from django.urls import path

from tests.works_with.panel import PAGES

urlpatterns = [*(path(f"{page.__name__}/", page) for page in PAGES), *debug_toolbar_urls()]
