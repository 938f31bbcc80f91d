"""The answers for programs: `live`, `ready`, `status.json`, `metrics`. From the process's memory.

None of them opens a connection, asks a server, or makes a pool.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse

from django_connpool.status import readiness, snapshot
from django_connpool.status.collect import Collected, of_host
from django_connpool.status.report import Report
from django_connpool.web.access import guarded
from django_connpool.web.views import quiet, text

COLLECTOR = "django_connpool.contrib.prometheus"


@quiet()
def live(request: HttpRequest) -> HttpResponse:
    """Whether the process answers. Whatever the database and the pools do."""
    return text(["alive"])


@quiet()
def ready(request: HttpRequest) -> HttpResponse:
    """Whether the pools can serve; 503 with the reasons when one cannot.

    `?pool=default&pool=replica` asks for these only; 404 when there is no such alias.
    """
    aliases = request.GET.getlist("pool")
    if not all(alias in connections.settings for alias in aliases):
        return text(["DATABASES has no such alias"], status=404)
    found = readiness.here(aliases)
    return text(found, status=503) if found else text(["ready"])


@quiet()
@guarded
def status(request: HttpRequest) -> HttpResponse:
    """The document of this process; with `?scope=host` those of all processes of the host."""
    scope = request.GET.get("scope", "process")
    if scope not in ("process", "host"):
        return text(['scope is "process" or "host"'], status=400)
    found = of_host() if scope == "host" else Collected([snapshot.take()])
    return JsonResponse(Report(found).as_dict())


@quiet()
@guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus; 404 where its client is not installed."""
    collector = _collector()
    if collector is None:
        return text(["No metrics: pip install 'django-connpool[metrics]'"], status=404)
    response: HttpResponse = collector.metrics(request)
    return response


def _collector() -> Any:
    try:
        import_module("prometheus_client")
        return import_module(COLLECTOR)
    except ImportError:
        return None
