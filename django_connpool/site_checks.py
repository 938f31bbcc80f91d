"""System checks of what surrounds the pools: the site, its servers, the database server."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_connpool import bounds, conf, deployment
from django_connpool.conf import PoolOptions
from django_connpool.readers import AUTO, PGBOUNCER

APP = "django_connpool"
STREAMING = "StreamingHttpResponse"
PAGE = "django_connpool.web.page"
SHORTEST_TOKEN = 20  # characters: what is shorter is guessed

Entries = Mapping[str, Mapping[str, Any]]


def of_settings(entries: Entries) -> Iterator[CheckMessage]:
    """What the settings of the pooled databases mean beside the rest. Opens no connection."""
    if not _is_installed():
        yield Warning(
            f"{APP!r} is not in INSTALLED_APPS: poolstatus does not exist and no process answers "
            "it, and Django's tasks do not give their connections back by themselves.",
            hint=f'Add "{APP}".',
            obj="INSTALLED_APPS",
            id="django_connpool.W012",
        )
    limit = deployment.patience() if _serves() else None
    for alias, entry in entries.items():
        options = _options(entry)
        if options is None:
            continue
        yield from _check_health_checks(_name(alias), entry, options)
        yield from _check_timeout(_name(alias), options, limit)
        if options.behind == PGBOUNCER:
            yield from _check_behind_pooler(_name(alias), entry, options)
    yield from _check_bounds(entries)
    yield from _check_streaming(entries)
    yield from _check_thresholds()
    yield from _check_token()
    if _is_mounted():
        yield from _check_page()


def of_deployment() -> Iterator[CheckMessage]:
    """What `manage.py check --deploy` says of the page."""
    if settings.DEBUG and _is_mounted():
        yield Warning(
            "DEBUG is on, so everybody may see the page of the connection pools: requests, lines "
            "of code, statements.",
            hint="Set DEBUG to False. The page is then for staff and for who has CONNPOOL_TOKEN.",
            obj="DEBUG",
            id="django_connpool.W022",
        )


def of_servers(entries: Entries, databases: Sequence[str]) -> Iterator[CheckMessage]:
    """What the servers of `databases` say to the pools of all `entries`. Asks them."""
    from django_connpool.status import activity

    seen = set()
    for alias in databases:
        if alias not in entries or (place := _place(entries[alias])) in seen:
            continue
        seen.add(place)
        found = activity.ask(connections[alias])
        if "error" in found:  # whoever asked for this check hears of that from Django
            continue
        here = {name: entry for name, entry in entries.items() if _place(entry) == place}
        yield from _check_room(here, found["max_connections"] - found["reserved"])
        options = _options(entries[alias])
        if options is not None and options.behind == AUTO:
            yield from _check_pooler(alias)


def _check_room(here: Entries, admitted: int) -> Iterator[CheckMessage]:
    processes = deployment.processes()
    if processes is None:
        return
    sizes = [options.max_size for entry in here.values() if (options := _options(entry))]
    try:
        most = bounds.most_of_all(here.values(), int(processes.number))
    except ImproperlyConfigured:  # E006 says so
        return
    if most > admitted:
        each = " + ".join(map(str, sizes))
        yield Warning(
            f"{int(processes.number)} processes ({processes.source}) with pools of at most {each} "
            f"may open {most} connections, and the server admits {admitted}.",
            hint="Lower max_size or the number of processes, set host_max_size, or raise the "
            "server's max_connections. CONNPOOL_PROCESSES in the settings tells the number of "
            "processes.",
            obj=", ".join(_name(alias) for alias in here),
            id="django_connpool.W011",
        )


def _check_behind_pooler(
    obj: str, entry: Mapping[str, Any], options: PoolOptions
) -> Iterator[CheckMessage]:
    """What does not go with a pooler that lends a session for one transaction."""
    given = entry.get("OPTIONS") or {}
    why = "with the pool option 'behind' set to 'pgbouncer'"
    if given.get("assume_role"):
        yield Error(
            f"'assume_role' cannot be had {why}: the role would be that of strangers' sessions.",
            hint="Connect as that role, or past the pooler.",
            obj=obj,
            id="django_connpool.E030",
        )
    if limits := options.servers_limits():
        yield Warning(
            f"The server is not told of {', '.join(limits)} {why}: PgBouncer refuses it. Only a "
            "server that answers nobody is given up in time, with command_timeout.",
            hint="; ".join(
                f"ALTER ROLE ... SET {name} = '{seconds:g}s'" for name, seconds in limits.items()
            ),
            obj=obj,
            id="django_connpool.W030",
        )
    if not entry.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield Warning(
            f"iterator() outside of a transaction raises NotSupportedError {why}.",
            hint="Set DISABLE_SERVER_SIDE_CURSORS to True.",
            obj=obj,
            id="django_connpool.W031",
        )
    if given.get("prepare_threshold") is not None:
        yield Warning(
            f"'prepare_threshold' {why} needs PgBouncer 1.21 or later, with "
            "max_prepared_statements above 0, and libpq 17 or later.",
            hint="Leave it out unless that is so.",
            obj=obj,
            id="django_connpool.W032",
        )
    if given.get("options"):
        yield Warning(
            f"OPTIONS['options'] {why}: PgBouncer refuses it, or leaves it out "
            "(ignore_startup_parameters).",
            hint="Give them to the role on the server: ALTER ROLE ... SET ...",
            obj=obj,
            id="django_connpool.W033",
        )


def _check_pooler(alias: str) -> Iterator[CheckMessage]:
    """Whether strangers get the sessions of this database, as far as two connections tell."""
    from django_connpool.session import pooler

    pool = getattr(connections[alias], "pool", None)
    if pool is None or pool.max_size < 2:
        return
    try:
        with pool.connection() as one, pool.connection() as other:
            likely = all(pooler.is_likely(conn.pgconn) for conn in (one, other))
            processes = {pooler.process_behind(conn.pgconn) for conn in (one, other)} - {0}
    except Exception:  # of which whoever asked for this check hears otherwise
        return
    if likely and len(processes) == 1:
        yield Warning(
            "A pooler before the server lends a session for one transaction: what is SET is found "
            "by strangers, and what cleans a session reaches another one.",
            hint="Set the pool option 'behind' to 'pgbouncer'.",
            obj=_name(alias),
            id="django_connpool.W034",
        )


def _check_bounds(entries: Entries) -> Iterator[CheckMessage]:
    """What is wrong with bounds that are shared, by processes and by aliases."""
    of_host = []
    for alias, entry in entries.items():
        options = _options(entry)
        if options is None:
            continue
        try:
            budget = bounds.of_options(options)
        except ImproperlyConfigured as error:
            yield Error(str(error), obj=_name(alias), id="django_connpool.E006")
            continue
        if budget is not None and budget.host_max_size is not None:
            of_host.append(alias)
            yield from _check_place(alias, options)
    if of_host and bounds.is_in_container() and not bounds.is_place_chosen():
        yield Info(
            "This is a container: 'host_max_size' counts the processes inside it alone.",
            hint="For one bound over several containers of a host give them a folder that they "
            "share, and its path as CONNPOOL_HOST_DIR.",
            obj=", ".join(map(_name, of_host)),
            id="django_connpool.W017",
        )


def _check_place(alias: str, options: PoolOptions) -> Iterator[CheckMessage]:
    why = bounds.why_unusable()
    if why and options.host_required:
        text = f"The bound for the host cannot be kept, so nothing will be opened: {why}."
        yield Error(text, obj=_name(alias), id="django_connpool.E007")
    elif why:
        text = f"The bound for the host cannot be kept, only 'max_size' will be: {why}."
        yield Warning(text, obj=_name(alias), id="django_connpool.W016")


def _check_health_checks(
    obj: str, entry: Mapping[str, Any], options: PoolOptions
) -> Iterator[CheckMessage]:
    if not entry.get("CONN_HEALTH_CHECKS") or options.check == "auto":
        return
    yield Warning(
        f"CONN_HEALTH_CHECKS has no effect with the pool option 'check' set to {options.check!r}: "
        "all it changes is after how much idleness 'auto' asks the server, 1 s instead of 30 s.",
        hint="Remove one of them.",
        obj=obj,
        id="django_connpool.W013",
    )


def _check_timeout(
    obj: str, options: PoolOptions, limit: deployment.Limit | None
) -> Iterator[CheckMessage]:
    if limit is not None and options.timeout >= limit.number:
        yield Warning(
            f"The pool option 'timeout' is {options.timeout:g} s, but a request is given up after "
            f"{limit.number:g} s: that is {limit.source}. Nobody would read the error, which says "
            "who holds the connections.",
            hint=f"Set 'timeout' well below {limit.number:g}.",
            obj=obj,
            id="django_connpool.W014",
        )


def _check_streaming(entries: Entries) -> Iterator[CheckMessage]:
    atomic = [alias for alias, entry in entries.items() if entry.get("ATOMIC_REQUESTS")]
    if not atomic or not _serves():
        return
    # Not at the top: this module is imported with the first model.
    from django.urls import get_resolver

    try:
        views = list(_streaming_views(get_resolver().url_patterns, atomic))
    except Exception:  # Django's own checks report a URLconf that cannot be read
        return
    if views:
        yield Warning(
            "ATOMIC_REQUESTS ends the transaction of a view before its streamed body is made, and "
            "its connection is given back: what the body queries is in no transaction, each part "
            f"perhaps on another connection. Views that stream: {', '.join(sorted(set(views)))}.",
            hint="Use transaction.atomic() in what makes the body if it needs a transaction, and "
            "tell with @transaction.non_atomic_requests on the view that it runs in none.",
            obj=", ".join(map(_name, atomic)),
            id="django_connpool.W010",
        )


def _check_page() -> Iterator[CheckMessage]:
    """Whether there is anybody who may see it."""
    knows_users = any(path.endswith("AuthenticationMiddleware") for path in settings.MIDDLEWARE)
    if not knows_users and not getattr(settings, "CONNPOOL_TOKEN", None):
        yield Warning(
            "The page of the connection pools is mounted, and nobody can be told from others: "
            "there is no AuthenticationMiddleware and no CONNPOOL_TOKEN. Without DEBUG it is "
            "closed to everybody, and so are status.json and metrics.",
            hint="Set CONNPOOL_TOKEN, or add "
            '"django.contrib.auth.middleware.AuthenticationMiddleware" to MIDDLEWARE.',
            obj="CONNPOOL_TOKEN",
            id="django_connpool.W020",
        )


def _check_token() -> Iterator[CheckMessage]:
    token = getattr(settings, "CONNPOOL_TOKEN", None)
    if token is None:
        return
    if not isinstance(token, str) or not token.strip():
        problem = "is empty, and opens nothing" if token in ("", b"") else "is no text"
        problem = "is blank" if isinstance(token, str) and token else problem
    elif len(token) < SHORTEST_TOKEN:
        problem = f"has {len(token)} characters, and may be guessed"
    else:
        return
    yield Warning(
        f"CONNPOOL_TOKEN {problem}.",
        hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'. Or remove "
        "the setting: then nothing but staff's session opens the page.",
        obj="CONNPOOL_TOKEN",
        id="django_connpool.W021",
    )


def _check_thresholds() -> Iterator[CheckMessage]:
    from django_connpool.status.readiness import Limits

    try:
        Limits.from_settings()
    except ImproperlyConfigured as error:
        yield Error(f"{error}.", obj="settings", id="django_connpool.E005")


def _is_mounted() -> bool:
    if not _serves():
        return False
    from django.urls import get_resolver

    try:
        return _has_page(get_resolver().url_patterns)
    except Exception:  # Django's own checks report a URLconf that cannot be read
        return False


def _has_page(patterns: Sequence[Any]) -> bool:
    return any(
        _has_page(pattern.url_patterns)
        if hasattr(pattern, "url_patterns")
        else getattr(pattern.callback, "__module__", "") == PAGE
        for pattern in patterns
        # Where the admin shows it, the admin asks who comes.
        if getattr(pattern, "app_name", None) != "admin"
    )


def _streaming_views(patterns: Sequence[Any], atomic: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _streaming_views(pattern.url_patterns, atomic)
        else:
            exempt: set[str] = getattr(pattern.callback, "_non_atomic_requests", set())
            if set(atomic) - exempt and _streams(pattern.callback):
                yield pattern.lookup_str


def _streams(callback: Any) -> bool:
    """Whether a view names the class of streaming responses."""
    view = getattr(callback, "view_class", None)
    if view is None:
        return _names(getattr(inspect.unwrap(callback), "__code__", None), STREAMING)
    return any(
        _names(getattr(inspect.unwrap(member), "__code__", None), STREAMING)
        for kind in view.__mro__
        for member in vars(kind).values()
        if callable(member)
    )


def _names(code: CodeType | None, name: str) -> bool:
    if code is None:
        return False
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return name in code.co_names or any(_names(each, name) for each in inner)


def _is_installed() -> bool:
    return any(app == APP or app.startswith(f"{APP}.apps.") for app in settings.INSTALLED_APPS)


def _serves() -> bool:
    return bool(getattr(settings, "ROOT_URLCONF", None))


def _options(entry: Mapping[str, Any]) -> PoolOptions | None:
    return None if conf.problems(entry) else conf.parse(entry)  # problems are told elsewhere


def _place(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("HOST") or "", str(entry.get("PORT") or "")


def _name(alias: str) -> str:
    return f'DATABASES["{alias}"]'
