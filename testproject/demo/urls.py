"""The shop's addresses, and those that only the demo has."""

from __future__ import annotations

from django.apps import apps
from django.urls import path

from demo import pages, planted
from testproject.urls import urlpatterns as of_the_shop

urlpatterns = [
    path("partner/", pages.partner),
    path("subscribe/", planted.subscribe),
    *of_the_shop,
]
if apps.is_installed("django_connpool"):
    urlpatterns.insert(0, path("look/<str:token>/", pages.look))
