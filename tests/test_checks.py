from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import Error, Warning
from django.core.checks.registry import registry
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections

from django_connpool import checks
from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from django_connpool.middleware import ConnectionPoolMiddleware

if TYPE_CHECKING:
    from pytest_django import Settings

ENGINE = "django_connpool.backends.postgresql"
OURS = "django_connpool.middleware.ConnectionPoolMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
MESSAGES = "django.contrib.messages.middleware.MessageMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"

Databases = Callable[..., None]


class DerivedMiddleware(ConnectionPoolMiddleware):
    pass


def plain_middleware(get_response: Any) -> Any:
    return get_response


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> Databases:
    """A function that puts entries in the place of DATABASES, for the checks to read."""

    def replace(**entries: dict[str, Any]) -> None:
        monkeypatch.setattr(connections, "settings", entries)

    return replace


@pytest.fixture(autouse=True)
def middleware(settings: Settings) -> None:
    settings.MIDDLEWARE = [OURS, SESSION]


def entry(**settings: Any) -> dict[str, Any]:
    return {"ENGINE": ENGINE, "CONN_MAX_AGE": 0, "OPTIONS": {}, **settings}


def pool(**options: Any) -> dict[str, Any]:
    return entry(OPTIONS={"pool": options})


def found() -> list[tuple[str, str]]:
    """The object and the id of every message."""
    return [(str(message.obj), str(message.id)) for message in checks.check_pools()]


# Which databases are looked at


def test_good_settings_are_silent(databases: Databases) -> None:
    databases(default=entry(), other=pool(max_size=5), off=entry(OPTIONS={"pool": False}))
    assert found() == []


def test_every_pooled_database_is_looked_at(databases: Databases) -> None:
    databases(default=pool(max_sise=5), other=pool(max_size=0))
    assert found() == [
        ('DATABASES["default"]', "django_connpool.E001"),
        ('DATABASES["other"]', "django_connpool.E002"),
    ]


@pytest.mark.parametrize(
    "engine", ["django.db.backends.postgresql", "django.db.backends.dummy", "no.such.engine", ""]
)
def test_other_engines_are_not_our_business(databases: Databases, engine: str) -> None:
    databases(default=entry(ENGINE=engine, OPTIONS={"pool": {"max_sise": 5}}, CONN_MAX_AGE=60))
    assert found() == []


def test_an_engine_made_with_the_mixin_is_looked_at(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModuleType("third_party_engine.base")
    base.DatabaseWrapper = type("DatabaseWrapper", (PooledDatabaseWrapperMixin,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party_engine.base", base)
    databases(default=entry(ENGINE="third_party_engine", OPTIONS={"pool": {"max_sise": 5}}))
    assert found() == [('DATABASES["default"]', "django_connpool.E001")]


def test_nothing_is_said_where_pooling_is_off(
    databases: Databases, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = []
    monkeypatch.setitem(sys.modules, "psycopg", None)
    options = {"pool": False, "pool_max_sise": "5", "pool_num_workers": "3"}
    databases(default=entry(OPTIONS=options, CONN_MAX_AGE=60))
    assert found() == []


# One test an id


def test_e001_unknown_option(databases: Databases) -> None:
    databases(default=entry(OPTIONS={"pool_max_sise": "5"}))
    assert checks.check_pools() == [
        Error(
            "Unknown pool option 'pool_max_sise' in OPTIONS.",
            hint="Did you mean 'pool_max_size'?",
            obj='DATABASES["default"]',
            id="django_connpool.E001",
        )
    ]


def test_e001_a_pool_option_that_would_go_to_libpq(databases: Databases) -> None:
    databases(default=entry(OPTIONS={"max_size": "5", "sslmode": "require"}))
    assert checks.check_pools() == [
        Error(
            "'max_size' in OPTIONS is an option of the pool, which libpq would get and refuse.",
            hint="Move it into OPTIONS[\"pool\"], or write 'pool_max_size'.",
            obj='DATABASES["default"]',
            id="django_connpool.E001",
        )
    ]
    databases(default=entry(OPTIONS={"pool": False, "max_size": "5"}))
    assert checks.check_pools() == []


def test_e002_impossible_value(databases: Databases) -> None:
    databases(default=pool(min_size=4, max_size=2))
    assert checks.check_pools() == [
        Error(
            "Pool option 'max_size' cannot be 2: 'min_size' is 4.",
            hint="Raise 'max_size' or lower 'min_size'.",
            obj='DATABASES["default"]',
            id="django_connpool.E002",
        )
    ]


def test_e003_psycopg_2(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    # without psycopg the mixin cannot be imported either, and the engine is still ours
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "django_connpool.backends.mixin", None)
    databases(default=entry(), other=entry())
    (message,) = checks.check_pools()
    assert message.id == "django_connpool.E003"
    assert message.level == Error("").level
    assert message.msg.startswith("psycopg 3 cannot be imported (")
    assert message.hint == "Install it: pip install 'psycopg[binary]>=3.2'."


@pytest.mark.parametrize(
    ("option", "value"), [("kwargs", {"sslmode": "require"}), ("conninfo", "sslmode=require")]
)
def test_e004_connection_parameters_in_the_pool_options(
    databases: Databases, option: str, value: Any
) -> None:
    databases(default=pool(**{option: value}))
    assert checks.check_pools() == [
        Error(
            f"The pool option {option!r} is ignored, with the connection parameters in it.",
            hint="Move them to the settings of the database: HOST, USER, ... and OPTIONS.",
            obj='DATABASES["default"]',
            id="django_connpool.E004",
        )
    ]


@pytest.mark.parametrize("max_age", [60, None])
def test_w001_conn_max_age(databases: Databases, max_age: int | None) -> None:
    databases(default=entry(CONN_MAX_AGE=max_age))
    assert checks.check_pools() == [
        Warning(
            f"CONN_MAX_AGE is {max_age}, which has no effect with a pool.",
            hint="Remove it. The pool's max_idle and max_lifetime say how long connections live.",
            obj='DATABASES["default"]',
            id="django_connpool.W001",
        )
    ]


def test_w002_option_without_effect(databases: Databases) -> None:
    databases(default=pool(num_workers=3))
    assert checks.check_pools() == [
        Warning(
            "The pool option 'num_workers' has no effect: "
            "max_connecting limits how many connections are opened at a time.",
            hint="Remove it.",
            obj='DATABASES["default"]',
            id="django_connpool.W002",
        )
    ]


def test_w003_middleware_is_missing(databases: Databases, settings: Settings) -> None:
    settings.MIDDLEWARE = [SECURITY, f"{__name__}.plain_middleware", "no_such_module.Middleware"]
    databases(default=entry(), other=entry())
    assert checks.check_pools() == [
        Warning(
            "ConnectionPoolMiddleware is not in MIDDLEWARE: a connection is kept until the client "
            "has read the response, min_size is not opened up front, and requests have no name "
            "in poolstatus.",
            hint=f'Put "{OURS}" first.',
            obj="MIDDLEWARE",
            id="django_connpool.W003",
        )
    ]


def test_w004_middleware_after_one_that_may_query(databases: Databases, settings: Settings) -> None:
    settings.MIDDLEWARE = [SECURITY, SESSION, f"{__name__}.plain_middleware", OURS]
    databases(default=entry())
    assert checks.check_pools() == [
        Warning(
            "Middleware before ConnectionPoolMiddleware may query after it has given the "
            f"connection back: {SESSION}, {__name__}.plain_middleware.",
            hint=f'Move "{OURS}" to the first place.',
            obj="MIDDLEWARE",
            id="django_connpool.W004",
        )
    ]


def test_middleware_may_follow_those_that_never_query(
    databases: Databases, settings: Settings
) -> None:
    settings.MIDDLEWARE = [
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        SECURITY,
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "corsheaders.middleware.CorsMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        OURS,
        SESSION,
    ]
    databases(default=entry())
    assert found() == []


def test_middleware_before_ours_may_query_when_it_caches_in_the_database(
    databases: Databases, settings: Settings
) -> None:
    settings.MIDDLEWARE = ["django.middleware.cache.UpdateCacheMiddleware", OURS]
    databases(default=entry())
    assert found() == [("MIDDLEWARE", "django_connpool.W004")]


def test_middleware_may_be_derived_from_ours(databases: Databases, settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.DerivedMiddleware", SESSION]
    databases(default=entry())
    assert found() == []


# manage.py check


def test_check_command_fails_for_an_error(databases: Databases) -> None:
    databases(default={**connections.settings["default"], **pool(max_sise=5)})
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    assert 'DATABASES["default"]: (django_connpool.E001) Unknown pool option' in str(caught.value)
    assert "HINT: Did you mean 'max_size'?" in str(caught.value)


def test_check_command_shows_a_warning(databases: Databases, settings: Settings) -> None:
    # What the admin's own checks ask for comes after ours.
    settings.MIDDLEWARE = [OURS, SESSION, AUTHENTICATION, MESSAGES]
    databases(default={**connections.settings["default"], **entry(CONN_MAX_AGE=60)})
    stderr = StringIO()
    call_command("check", stderr=stderr)
    assert 'DATABASES["default"]: (django_connpool.W001) CONN_MAX_AGE is 60' in stderr.getvalue()


def test_checks_have_a_tag_of_their_own(databases: Databases) -> None:
    databases(default={**connections.settings["default"], **pool(max_sise=5)})
    with pytest.raises(SystemCheckError, match="identified 1 issue"):
        call_command("check", tags=[checks.TAG])


def test_register_twice_is_register_once() -> None:
    checks.register()
    before = registry.get_checks()
    checks.register()
    assert registry.get_checks() == before


def test_w010_uwsgi_without_threads(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    databases(default=entry())
    host: Any = ModuleType("uwsgi")
    host.opt, host.worker_id, host.has_threads = {}, lambda: 1, 0
    monkeypatch.setitem(sys.modules, "uwsgi", host)

    (message,) = checks.check_pools()
    assert message.id == "django_connpool.W015"
    assert "enable-threads = true" in str(message.hint)

    host.has_threads = 1
    assert found() == []
