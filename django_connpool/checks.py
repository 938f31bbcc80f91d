"""System checks: what ``manage.py check`` says about pooled databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning
from django.core.checks import register as register_check
from django.db import connections
from django.utils.module_loading import import_string

from django_connpool import conf, site_checks
from django_connpool.functions import hiding_state
from django_connpool.process import uwsgi
from django_connpool.session.statements import bare

TAG = "connpool"
BACKENDS = "django_connpool.backends."
MIDDLEWARE = "django_connpool.middleware.ConnectionPoolMiddleware"

# Options of psycopg_pool that say how to connect. To drop one, sslmode say, must not go unseen.
CONNECTION_PARAMETERS = frozenset({"conninfo", "kwargs"})

# Middleware that runs no query once the response exists, and often asks for a place at the top.
QUIET_MIDDLEWARE = (
    "corsheaders.middleware.",
    "django.middleware.clickjacking.",
    "django.middleware.common.",
    "django.middleware.csp.",
    "django.middleware.csrf.",
    "django.middleware.gzip.",
    "django.middleware.http.",
    "django.middleware.locale.",
    "django.middleware.security.",
    "django_prometheus.middleware.",
    "whitenoise.middleware.",
)


def register() -> None:
    """Add the checks to Django's registry; to do it again changes nothing."""
    # Not under Tags.database: those checks run only for databases named with --database.
    register_check(check_pools, TAG)
    # This one under it: it has to ask the server.
    register_check(check_functions, Tags.database)
    register_check(check_servers, Tags.database)
    register_check(check_deployment, TAG, deploy=True)


def check_pools(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check the settings of every pooled database. Opens no connection."""
    entries = _pooled_entries()
    if not entries:
        return []
    messages = list(_check_driver())
    for alias, entry in entries.items():
        messages.extend(_check_entry(f'DATABASES["{alias}"]', entry))
    messages.extend(_check_middleware(settings.MIDDLEWARE))
    messages.extend(_check_server())
    messages.extend(site_checks.of_settings(entries))
    return messages


def check_deployment(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """What `manage.py check --deploy` says. Opens no connection."""
    return list(site_checks.of_deployment()) if _pooled_entries() else []


def check_servers(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Whether the servers have room for all pools of all processes.

    Only those of the databases that `manage.py check --database ALIAS` names.
    """
    return list(site_checks.of_servers(_pooled_entries(), databases or ()))


def check_functions(
    app_configs: Sequence[AppConfig] | None = None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Report the functions that give state to a session where no statement shows it.

    Only of the databases that `manage.py check --database ALIAS` names: it asks their servers.
    """
    return [
        message
        for alias in databases or ()
        if _is_pooled(connections.settings[alias])
        for message in _check_functions(alias)
    ]


def _check_functions(alias: str) -> Iterator[CheckMessage]:
    if conf.problems(connections.settings[alias]):  # told by the other check
        return
    options = conf.parse(connections.settings[alias])
    if options is None or options.reset != "auto":
        return
    with connections[alias].cursor() as cursor:
        causes, users = hiding_state(cursor, map(bare, options.reset_functions))
    if causes:
        through = f", and so through {', '.join(users)}" if users else ""
        yield Info(
            "These functions give state to the session that calls them: "
            f"{', '.join(causes)}{through}. Statements that mention one have the session cleaned.",
            hint="Nothing has to be done. One that is missing belongs in 'reset_functions'.",
            obj=f'DATABASES["{alias}"]',
            id="django_connpool.W005",
        )


def _pooled_entries() -> dict[str, Mapping[str, Any]]:
    return {alias: entry for alias, entry in connections.settings.items() if _is_pooled(entry)}


def _is_pooled(entry: Mapping[str, Any]) -> bool:
    engine = entry["ENGINE"]
    return (engine.startswith(BACKENDS) or _has_mixin(engine)) and conf.enabled(entry)


def _has_mixin(engine: str) -> bool:
    # Whatever keeps an engine from being imported, Django reports better than a check can.
    try:
        wrapper = import_module(f"{engine}.base").DatabaseWrapper
    except Exception:
        return False
    return bool(getattr(wrapper, "borrows_from_pool", False))


def _check_driver() -> Iterator[CheckMessage]:
    # Django quietly takes psycopg2 when psycopg 3 is installed without a libpq it can load.
    try:
        import_module("psycopg")
    except ImportError as error:
        yield Error(
            f"psycopg 3 cannot be imported ({error}), and psycopg2 cannot be pooled.",
            hint="Install it: pip install 'psycopg[binary]>=3.2'.",
            obj="DATABASES",
            id="django_connpool.E003",
        )


def _check_entry(obj: str, entry: Mapping[str, Any]) -> Iterator[CheckMessage]:
    for problem in conf.problems(entry):
        number = "E001" if isinstance(problem, conf.UnknownOption) else "E002"
        yield Error(problem.message, hint=problem.hint, obj=obj, id=f"django_connpool.{number}")
    for option, why in conf.ignored(entry):
        yield _ignored(obj, option, why)
    if entry.get("CONN_MAX_AGE", 0) != 0:
        yield Warning(
            f"CONN_MAX_AGE is {entry['CONN_MAX_AGE']!r}, which has no effect with a pool.",
            hint="Remove it. The pool's max_idle and max_lifetime say how long connections live.",
            obj=obj,
            id="django_connpool.W001",
        )


def _ignored(obj: str, option: str, why: str) -> CheckMessage:
    if option in CONNECTION_PARAMETERS:
        return Error(
            f"The pool option {option!r} is ignored, with the connection parameters in it.",
            hint="Move them to the settings of the database: HOST, USER, ... and OPTIONS.",
            obj=obj,
            id="django_connpool.E004",
        )
    return Warning(
        f"The pool option {option!r} has no effect: {why}.",
        hint="Remove it.",
        obj=obj,
        id="django_connpool.W002",
    )


def _check_middleware(paths: Sequence[str]) -> Iterator[CheckMessage]:
    place = next((place for place, path in enumerate(paths) if _is_ours(path)), None)
    if place is None:
        yield Warning(
            "ConnectionPoolMiddleware is not in MIDDLEWARE: a connection is kept until the client "
            "has read the response, min_size is not opened up front, and requests have no name "
            "in poolstatus.",
            hint=f'Put "{MIDDLEWARE}" first.',
            obj="MIDDLEWARE",
            id="django_connpool.W003",
        )
        return
    # Those before ours still run after it has given back. A query there, a session saved for
    # instance, borrows again and keeps that connection until the client has read everything.
    before = [path for path in paths[:place] if not path.startswith(QUIET_MIDDLEWARE)]
    if before:
        yield Warning(
            "Middleware before ConnectionPoolMiddleware may query after it has given the "
            f"connection back: {', '.join(before)}.",
            hint=f'Move "{paths[place]}" to the first place.',
            obj="MIDDLEWARE",
            id="django_connpool.W004",
        )


def _check_server() -> Iterator[CheckMessage]:
    # Only in a process of uWSGI's, as the log of every such process says it too.
    if uwsgi.stands_still():
        yield Warning(uwsgi.STANDS_STILL, hint=uwsgi.HINT, id="django_connpool.W015")


def _is_ours(path: str) -> bool:
    if path == MIDDLEWARE:
        return True
    # A middleware that cannot be imported is reported by the first request, not by us.
    try:
        middleware = import_string(path)
    except Exception:
        return False
    return bool(getattr(middleware, "gives_back_connections", False))
