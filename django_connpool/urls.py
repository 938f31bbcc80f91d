"""The page and the answers for programs: `path("pool/", include("django_connpool.urls"))`."""

from __future__ import annotations

from django.urls import path, re_path

from django_connpool.web import page, probes

app_name = "django_connpool"
urlpatterns = [
    path("", page.page, name="page"),
    path("live", probes.live, name="live"),
    path("ready", probes.ready, name="ready"),
    path("status.json", probes.status, name="status"),
    path("metrics", probes.metrics, name="metrics"),
    path("act", page.act, name="act"),
    path("enter", page.enter, name="enter"),
    re_path(r"^(?P<name>page\.css|page\.js|icon\.svg)$", page.asset, name="asset"),
]
