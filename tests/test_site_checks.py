"""What the checks say of the site, its servers and the database server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View

from django_connpool import checks, deployment, site_checks
from tests.cluster import Server
from tests.databases import Databases

ROOT = Path(__file__).resolve().parents[1]


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def rows(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(number) for number in range(3))


@transaction.non_atomic_requests
def rows_in_no_transaction(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter("abc"))


class Rows(View):
    def get(self, request: HttpRequest) -> StreamingHttpResponse:
        def respond() -> StreamingHttpResponse:
            return StreamingHttpResponse(iter("abc"))

        return respond()


@method_decorator(transaction.non_atomic_requests, name="dispatch")
class RowsInNoTransaction(Rows):
    pass


urlpatterns = [
    path("plain/", plain),
    path("rows/", rows),
    path("none/", rows_in_no_transaction),
    path(
        "class/", include([path("rows/", Rows.as_view()), path("", RowsInNoTransaction.as_view())])
    ),
]


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "DYNO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def entry(pool: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "ENGINE": "django_connpool.backends.postgresql",
        "OPTIONS": {"pool": pool or {}},
    } | changes


def of_settings(**entries: dict[str, Any]) -> dict[str, CheckMessage]:
    """The messages by the number of their id."""
    messages = site_checks.of_settings(entries)
    return {str(message.id).rpartition(".")[2]: message for message in messages}


def test_nothing_is_said_of_what_is_usual() -> None:
    assert of_settings(default=entry(), other=entry({"max_size": 5}, CONN_HEALTH_CHECKS=True)) == {}


# W010


def test_w010_names_the_views_that_stream_in_an_atomic_request(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    assert of_settings(default=entry()) == {}
    told = of_settings(default=entry(ATOMIC_REQUESTS=True), other=entry())["W010"]
    assert told.msg.endswith(f"Views that stream: {__name__}.Rows, {__name__}.rows.")
    assert told.obj == 'DATABASES["default"]'


def test_w010_is_silent_where_nothing_streams_or_is_served(settings: Any) -> None:
    settings.ROOT_URLCONF = "django.contrib.auth.urls"
    assert of_settings(default=entry(ATOMIC_REQUESTS=True)) == {}
    settings.ROOT_URLCONF = "no.such.module"
    assert of_settings(default=entry(ATOMIC_REQUESTS=True)) == {}
    settings.ROOT_URLCONF = ""
    assert of_settings(default=entry(ATOMIC_REQUESTS=True)) == {}


# W011


@pytest.fixture
def room(databases: Databases) -> Iterator[Callable[..., list[CheckMessage]]]:
    """What is said of pools of 40 and 20 on the server of the tests, and of one elsewhere."""
    databases.add(pool={"max_size": 40})
    databases.add("second", pool={"max_size": 20})
    here = {alias: connections.settings[alias] for alias in ("spare", "second")}
    elsewhere = entry({"max_size": 30}, HOST="elsewhere.invalid")
    # Taken back before the databases go.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connections, "settings", {**here, "elsewhere": elsewhere})
        yield lambda *aliases: checks.check_servers(databases=aliases)


def admitted(cluster: Server) -> int:
    ((most, reserved),) = cluster.execute(
        "SELECT current_setting('max_connections')::int,"
        " current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true), '0')::int"
    )
    return int(most) - int(reserved)


def test_w011_the_pools_of_all_processes_must_fit(
    room: Callable[..., list[CheckMessage]], cluster: Server, settings: Any
) -> None:
    fitting = admitted(cluster) // 60
    settings.CONNPOOL_PROCESSES = fitting
    assert room("spare", "second") == []
    settings.CONNPOOL_PROCESSES = fitting + 1
    (told,) = room("spare", "second")
    assert told.id == "django_connpool.W011"
    assert f"at most 40 + 20 may open {(fitting + 1) * 60} connections" in told.msg
    assert f"the server admits {admitted(cluster)}." in told.msg
    assert told.obj == 'DATABASES["spare"], DATABASES["second"]'


def test_w011_counts_what_bounds_leave(
    room: Callable[..., list[CheckMessage]], cluster: Server, settings: Any
) -> None:
    settings.CONNPOOL_PROCESSES = 1000
    pools = [connections.settings[alias]["OPTIONS"]["pool"] for alias in ("spare", "second")]
    pools[0]["host_max_size"] = 7
    (told,) = room("spare")
    assert f"may open {1000 * 20 + 7} connections" in told.msg
    pools[1]["host_max_size"] = 8
    assert room("spare") == []
    for pool in pools:
        del pool["host_max_size"]
        pool["budget"] = "all"
    settings.CONNPOOL_BUDGETS = {"all": 30}
    (told,) = room("spare")
    assert f"may open {1000 * 30} connections" in told.msg
    settings.CONNPOOL_BUDGETS = {"all": {"host_max_size": 9}}
    assert room("spare") == []


@pytest.mark.parametrize("aliases", [(), ("unpooled",)])
def test_w011_asks_only_the_servers_it_is_told_to(
    room: Callable[..., list[CheckMessage]], settings: Any, aliases: tuple[str, ...]
) -> None:
    settings.CONNPOOL_PROCESSES = 1000
    assert room(*aliases) == []


def test_w011_is_silent_where_the_number_of_processes_is_not_known(
    room: Callable[..., list[CheckMessage]],
) -> None:
    assert room("spare") == []


# W012


def test_w012_the_engine_alone_brings_the_checks() -> None:
    script = """
        from django.conf import settings
        settings.configure(
            INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
            DATABASES={"default": {"ENGINE": "django_connpool.backends.postgresql", "NAME": "x"}},
            ROOT_URLCONF="django.contrib.auth.urls",
        )
        from django.core.management import execute_from_command_line
        execute_from_command_line(["manage.py", "check"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "INSTALLED_APPS: (django_connpool.W012)" in done.stderr
    assert "MIDDLEWARE: (django_connpool.W003)" in done.stderr


@pytest.mark.parametrize("app", ["django_connpool", "django_connpool.apps.ConnectionPoolConfig"])
def test_w012_the_app_goes_by_two_names(monkeypatch: pytest.MonkeyPatch, app: str) -> None:
    monkeypatch.setattr(site_checks.settings._wrapped, "INSTALLED_APPS", [app], raising=False)
    assert of_settings(default=entry()) == {}


# W013


@pytest.mark.parametrize("check", ["always", False])
def test_w013_health_checks_beside_a_check(check: object) -> None:
    told = of_settings(default=entry({"check": check}, CONN_HEALTH_CHECKS=True))
    assert list(told) == ["W013"]
    assert f"set to {check!r}" in told["W013"].msg
    assert of_settings(default=entry({"check": check})) == {}


# W014


def test_w014_nobody_reads_the_error_of_a_long_wait(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    assert of_settings(default=entry({"timeout": 59})) == {}
    assert (
        "60 s: that is what proxies do" in of_settings(default=entry({"timeout": 60}))["W014"].msg
    )
    monkeypatch.setenv("DYNO", "web.1")
    assert "30 s: that is Heroku's" in of_settings(default=entry({"timeout": 30}))["W014"].msg
    assert of_settings(default=entry({"timeout": 29})) == {}
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-t 10 --bind :80")
    told = of_settings(default=entry())["W014"]  # 10 s
    assert "10 s: that is timeout in GUNICORN_CMD_ARGS" in told.msg
    # A worker for tasks answers no request.
    settings.ROOT_URLCONF = ""
    assert of_settings(default=entry()) == {}


@pytest.mark.parametrize("kind", ["--threads 4", "-k gevent", "-t 0", "--timeout soon", '"'])
def test_w014_workers_that_are_not_killed_while_a_request_waits(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"-t 10 {kind}")
    assert of_settings(default=entry({"timeout": 20})) == {}


# What is known of the servers


def known() -> tuple[float, str] | None:
    found = deployment.processes()
    return None if found is None else (found.number, found.source)


@pytest.fixture
def base(settings: Any, tmp_path: Path) -> Iterator[Path]:
    settings.BASE_DIR = tmp_path / "shop"
    settings.BASE_DIR.mkdir()
    yield settings.BASE_DIR


def test_processes_stand_in_many_places(
    settings: Any, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    assert known() is None
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert known() == (2, "WEB_CONCURRENCY")
    (base / "gunicorn.conf.py").write_text("import nothing\nthreads = workers = 3\n")
    assert known() == (3, "workers in gunicorn.conf.py")
    other = base / "other.py"
    other.write_text("workers = 4\n")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--config file:{other}")
    assert known() == (4, "workers in other.py")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--reload --workers=5")
    assert known() == (5, "workers in GUNICORN_CMD_ARGS")
    settings.CELERY_WORKER_CONCURRENCY = 6
    assert known() == (11, "workers in GUNICORN_CMD_ARGS and CELERY_WORKER_CONCURRENCY")
    settings.CONNPOOL_PROCESSES = 7
    assert known() == (7, "CONNPOOL_PROCESSES")


@pytest.mark.parametrize(
    "text", ["workers = cpu_count() * 2 + 1", "workers = None", "workers = 'x'", "def", "\0"]
)
def test_what_is_computed_is_not_known(base: Path, text: str) -> None:
    (base / "gunicorn.conf.py").write_text(text)
    assert known() is None


# E030, W030 to W033: behind a pooler


@pytest.mark.parametrize(
    ("options", "settings_of_it", "told"),
    [
        ({}, {"DISABLE_SERVER_SIDE_CURSORS": True}, set()),
        ({}, {}, {"W031"}),
        ({"command_timeout": 5}, {"DISABLE_SERVER_SIDE_CURSORS": True}, {"W030"}),
    ],
)
def test_what_does_not_go_with_a_pooler_is_told(
    options: dict[str, Any], settings_of_it: dict[str, Any], told: set[str]
) -> None:
    assert of_settings(default=entry({**options, "behind": "auto"}, **settings_of_it)) == {}
    found = of_settings(default=entry({**options, "behind": "pgbouncer"}, **settings_of_it))
    assert found.keys() == told


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("assume_role", "shop", {"E030"}),
        ("prepare_threshold", 0, {"W032"}),
        ("prepare_threshold", None, set()),
        ("options", "-c work_mem=1MB", {"W033"}),
    ],
)
def test_what_a_pooler_refuses_or_gives_to_strangers_is_told(
    option: str, value: Any, told: set[str]
) -> None:
    given = entry({"behind": "pgbouncer"}, DISABLE_SERVER_SIDE_CURSORS=True)
    given["OPTIONS"][option] = value
    assert of_settings(default=given).keys() == told
    given["OPTIONS"]["pool"] = {"behind": "server"}
    assert of_settings(default=given) == {}


# W020 to W022, E005: the page


@pytest.fixture
def mounted(settings: Any) -> Any:
    """The settings of a site that has mounted the page, and DEBUG off."""
    settings.ROOT_URLCONF = "tests.web.urls"
    return settings


def test_nothing_is_said_of_a_page_that_is_for_staff_or_has_a_token(mounted: Any) -> None:
    assert of_settings(default=entry()) == {}
    mounted.MIDDLEWARE = []
    mounted.CONNPOOL_TOKEN = "a token that is long enough"
    assert of_settings(default=entry()) == {}


def test_w020_a_page_that_is_closed_to_everybody(mounted: Any) -> None:
    mounted.MIDDLEWARE = []
    assert of_settings(default=entry()).keys() == {"W020"}
    mounted.ROOT_URLCONF = "shop.urls"  # not mounted
    assert of_settings(default=entry()) == {}
    mounted.ROOT_URLCONF = "no.such.module"
    assert of_settings(default=entry()) == {}


def test_w020_is_silent_about_the_admin_which_has_its_own_door(mounted: Any) -> None:
    mounted.MIDDLEWARE = []
    mounted.ROOT_URLCONF = "tests.urls"
    assert of_settings(default=entry()) == {}


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "is empty, and opens nothing"),
        ("   ", "is blank"),
        (b"", "is empty"),
        (b"a token that is long enough", "is no text"),
        (["a token that is long enough"], "is no text"),
        ("short", "has 5 characters, and may be guessed"),
    ],
)
def test_w021_a_token_that_is_none(settings: Any, token: Any, problem: str) -> None:
    settings.CONNPOOL_TOKEN = token
    told = of_settings(default=entry())["W021"]
    assert told.msg.startswith(f"CONNPOOL_TOKEN {problem}")
    assert "short" not in told.msg  # the token itself


def test_w022_a_page_that_debug_opens_to_everybody(mounted: Any) -> None:
    assert checks.check_deployment() == []
    mounted.DEBUG = True
    assert [message.id for message in checks.check_deployment()] == ["django_connpool.W022"]
    mounted.ROOT_URLCONF = "shop.urls"
    assert checks.check_deployment() == []


def test_w022_is_for_deployments_only(mounted: Any) -> None:
    from django.core.checks import run_checks

    mounted.DEBUG = True
    for deploys in (False, True):
        told = [message.id for message in run_checks(include_deployment_checks=deploys)]
        assert ("django_connpool.W022" in told) is deploys


def test_e005_a_threshold_that_is_no_number(settings: Any) -> None:
    settings.CONNPOOL_BUSY_AFTER = "5"
    told = of_settings(default=entry())["E005"]
    assert told.msg == "CONNPOOL_BUSY_AFTER has to be a number of seconds, not '5'."
