"""`poolstatus --report`: what to send with a question or a bug report, for anybody to read.

Nothing gets in that is not known to be harmless: see harmless.py. What is asked of other packages
and of the settings may fail in any way, and is then told as far as it goes: something is wrong
where a report is made.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from importlib import metadata
from typing import Any

import django
import psycopg
from django.conf import settings
from django.core import checks
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_connpool import conf
from django_connpool.process.cpython import has_global_lock
from django_connpool.readers import BEHIND, RELEASES, ROUND_TRIPS
from django_connpool.status.harmless import HIDDEN, Reading, one_of, version
from django_connpool.status.report import Report

VERSION = 1
ABOUT = (
    "Made by `manage.py poolstatus --report`. *** is left out: passwords, names of hosts, databases"
    " and users, paths of requests, values. The names of your apps, middleware, database aliases,"
    " tables, files and functions are not: look through it before you send it."
)

# Packages that have a say in how connections are used.
NEIGHBOURS = (
    *(
        "django-connpool",
        "Django",
        "asgiref",
        "psycopg",
        "psycopg-binary",
        "psycopg-c",
        "psycopg-pool",
    ),
    *("gunicorn", "uvicorn", "daphne", "hypercorn", "granian", "uWSGI", "pyuwsgi", "waitress"),
    *("gevent", "greenlet", "eventlet", "uvloop", "channels", "anyio"),
    *("celery", "django-dramatiq", "django-tasks", "huey", "rq", "django-q2", "procrastinate"),
    *("sentry-sdk", "ddtrace", "newrelic", "elastic-apm", "prometheus-client"),
    *("opentelemetry-sdk", "opentelemetry-instrumentation-psycopg", "django-prometheus"),
    *("django-tenants", "django-debug-toolbar", "django-silk", "django-cachalot"),
    *("djangorestframework", "django-ninja", "django-environ", "dj-database-url"),
    *("django-postgres-extra", "django-pgtrigger", "django-pglock", "django-pghistory"),
)

_WORDS = one_of(
    {
        *("auto", "always", *RELEASES, *ROUND_TRIPS, *BEHIND),
        # of libpq's parameters
        *("disable", "allow", "prefer", "require", "verify-ca", "verify-full", "any"),
        *("read-write", "read-only", "primary", "standby", "prefer-standby", "random"),
    }
)
# Of a database's settings, those of which the value matters.
_SETTINGS = (
    *("ATOMIC_REQUESTS", "AUTOCOMMIT", "CONN_HEALTH_CHECKS", "CONN_MAX_AGE"),
    "DISABLE_SERVER_SIDE_CURSORS",
)
# Of OPTIONS, those of which the value is told, if it is a number or a known word: a password may be
# a number, too.
_PARAMETERS = {
    *("channel_binding", "connect_timeout", "gssencmode", "isolation_level", "keepalives"),
    *("keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
    *("prepare_threshold", "server_side_binding", "sslmode", "sslnegotiation"),
    *("target_session_attrs", "tcp_user_timeout"),
    *(conf.PREFIX + name for name in conf.READERS if name not in {"credentials", "name"}),
}
# Those of which only the name is, beside libpq's own.
_PASSED_ON = {
    *("assume_role", "context", "cursor_factory", "pool_credentials", "pool_name"),
    "row_factory",
}
TOKEN = "CONNPOOL_TOKEN"  # also one that is a number
_CHECK = re.compile(r"\w+(?:\.\w+)*\.[A-Z]\d{3}")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def text(report: Report, wrappers: Mapping[str, BaseDatabaseWrapper]) -> str:
    """`wrappers`: of the databases that are pooled, by alias."""
    return json.dumps(make(report, wrappers), indent=2)


def make(report: Report, wrappers: Mapping[str, BaseDatabaseWrapper]) -> dict[str, Any]:
    """The report, as JSON can write it."""
    reading = Reading(connections)
    return {
        "about": ABOUT,
        "report": VERSION,
        "versions": _told(_versions),
        "environment": _told(_environment),
        "settings": _told(_settings),
        "databases": {alias: _told(_database, alias, alias in wrappers) for alias in connections},
        "checks": _told(_checks),
        "processes": reading.of(report.processes),
        "unanswered": reading.of(report.as_dict()["unanswered"]),
        "directories": len(report.collected.directories),
        "refused": reading.of(report.collected.refused, "refused"),
        "elsewhere": report.collected.elsewhere,
        "servers": reading.of(report.server),
    }


def _told(ask: Callable[..., Any], *args: Any) -> Any:
    """What there is to tell, or which kind of error came instead."""
    try:
        return ask(*args)
    except Exception as error:  # in the settings, a check of somebody's, broken metadata
        return {"failed": type(error).__name__}


# -- What is installed --------------------------------------------------------------------


def _versions() -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "global_lock": has_global_lock(),
        "django": django.get_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "libpq": psycopg.pq.version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": dict(_packages()),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for name in NEIGHBOURS:
        try:
            yield name, version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue


def _environment() -> dict[str, Any]:
    """Variables that change how libpq, servers and Python behave: that they are there."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    return {
        "set": sorted(
            name
            for name in os.environ
            if name in {"DATABASE_URL", "GUNICORN_CMD_ARGS", "PYTHON_GIL", "WEB_CONCURRENCY"}
            or name in _libpqs_variables()
        ),
        "WEB_CONCURRENCY": int(workers) if workers.isascii() and workers.isdigit() else None,
    }


def _libpqs_variables() -> set[str]:
    known = (option.envvar for option in psycopg.pq.Conninfo.get_defaults())
    return {name.decode() for name in known if name}


# -- What the site says -------------------------------------------------------------------


def _settings() -> dict[str, Any]:
    """The names of what stands in the settings, and the numbers of ours."""
    ours = Reading(())
    return {
        "DEBUG": bool(settings.DEBUG),
        "USE_TZ": bool(settings.USE_TZ),
        "INSTALLED_APPS": [_name(app) for app in settings.INSTALLED_APPS],
        "MIDDLEWARE": [_name(one) for one in settings.MIDDLEWARE],
        "DATABASE_ROUTERS": len(settings.DATABASE_ROUTERS),
        **{
            name: HIDDEN if name == TOKEN else ours.of(_without_keys(getattr(settings, name)))
            for name in sorted(dir(settings))
            if name.startswith("CONNPOOL_")
        },
    }


def _without_keys(value: Any) -> Any:
    """The names of budgets are the user's."""
    return list(value.values()) if isinstance(value, Mapping) else value


def _name(path: Any) -> str:
    """The dotted path of something that can be imported."""
    return path if isinstance(path, str) and _NAME.fullmatch(path) else HIDDEN


def _database(alias: str, is_pooled: bool) -> dict[str, Any]:
    entry = connections.settings[alias]
    told: dict[str, Any] = {"ENGINE": _name(entry.get("ENGINE"))}
    if not is_pooled:  # by another engine, or switched off
        return told if conf.enabled(entry) else {**told, "pool": "off"}
    passed_on = {**(entry.get("OPTIONS") or {})}
    passed_on.pop(conf.KEY, None)  # told as it is in force
    return {
        **told,
        "HOST": _where(entry.get("HOST")),
        **{name: _value(entry.get(name)) for name in _SETTINGS},
        "OPTIONS": _parameters(passed_on),
        "pool": _told(_pool, entry),
    }


def _where(host: Any) -> str:
    """What kind of place the server is at."""
    shown = str(host or "")
    if "," in shown:
        return f"{shown.count(',') + 1} hosts"
    if not shown or shown.startswith(("/", "@")):
        return "socket"
    return "this machine" if shown in {"localhost", "127.0.0.1", "::1"} else "network"


def _parameters(options: Mapping[Any, Any]) -> dict[str, Any]:
    """The names that libpq, Django and the pool know; how many others there are."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    known |= _PARAMETERS | _PASSED_ON
    told = {
        name: _value(value) if name in _PARAMETERS else HIDDEN
        for name, value in options.items()
        if name in known
    }
    unknown = len(options) - len(told)
    return {**told, **({"unknown": unknown} if unknown else {})}


def _pool(entry: Mapping[str, Any]) -> Any:
    """The options as they are in force, and which of them were given."""
    if problems := conf.problems(entry):
        return {"problems": [type(problem).__name__ for problem in problems]}
    options = conf.parse(entry) or conf.PoolOptions()
    default = conf.PoolOptions()
    return {
        field.name: _value(value)
        for field in fields(options)
        if (value := getattr(options, field.name)) != getattr(default, field.name)
        or field.name in {"max_size", "min_size", "release", "timeout"}
    }


def _value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _WORDS(value)
    if isinstance(value, (tuple, list)):
        return f"{len(value)} of them"
    return "callable" if callable(value) else HIDDEN


def _checks() -> list[dict[str, Any]]:
    """Their ids: the texts have values in them. Those that ask a server are not run."""
    found = Counter(
        (
            message.id if _CHECK.fullmatch(message.id or "") else HIDDEN,
            message.level,
            message.is_silenced(),
        )
        for message in checks.run_checks()
    )
    return [
        {"id": name, "level": level, "silenced": silenced, "times": times}
        for (name, level, silenced), times in sorted(found.items())
    ]
