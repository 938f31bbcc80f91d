"""The settings of the sample: closed unless they are told otherwise, and all of it explained."""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_connpool import conf
from testproject import embedded
from testproject.logs import FIELDS, Json
from tests.cluster import Server
from tests.e2e import processes

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "testproject"
EXAMPLE = (SAMPLE / ".env.example").read_text()
# What the servers read, and not the settings.
OF_SERVERS = {"FORWARDED_ALLOW_IPS"}

URL = "postgres://shop:secret@db.example.com/shop"
PRODUCTION = {"SECRET_KEY": "k" * 50, "DATABASE_URL": URL}

Read = Callable[..., dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the settings alone, and no `.env`."""
    (tmp_path / "testproject").mkdir()
    shutil.copy(SAMPLE / "testproject" / "settings.py", tmp_path / "testproject")
    return tmp_path


@pytest.fixture
def read(project: Path) -> Read:
    """A function of an environment that returns the settings."""

    def read(**environ: str) -> dict[str, Any]:
        with mock.patch.dict(os.environ, environ, clear=True):
            return runpy.run_path(str(project / "testproject" / "settings.py"))

    return read


@pytest.mark.parametrize(
    ("file", "environ", "debug"),
    [
        (False, {}, "on"),
        (True, {}, None),
        (False, {"SECRET_KEY": "of production"}, None),
        (False, {"DEBUG": "off"}, "off"),
    ],
)
def test_only_where_nothing_is_told_commands_run_as_with_debug(
    project: Path, file: bool, environ: dict[str, str], debug: str | None
) -> None:
    shutil.copy(SAMPLE / "manage.py", project)
    if file:
        (project / ".env").touch()
    with mock.patch.dict(os.environ, environ, clear=True):
        runpy.run_path(str(project / "manage.py"))["be_a_sample"]()
        assert os.environ.get("DEBUG") == debug


@pytest.fixture
def no_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> str:
        raise AssertionError("the embedded server was started")

    monkeypatch.setattr(embedded, "url", started)


@pytest.mark.usefixtures("no_embedded")
@pytest.mark.parametrize("missing", ["SECRET_KEY", "DATABASE_URL"])
def test_a_site_in_production_that_is_not_told_all_does_not_start(read: Read, missing: str) -> None:
    told = {name: value for name, value in PRODUCTION.items() if name != missing}
    with pytest.raises(ImproperlyConfigured, match=missing):
        read(**told)


@pytest.mark.usefixtures("no_embedded")
def test_a_site_in_production_is_closed(read: Read) -> None:
    found = read(**PRODUCTION)
    assert found["DEBUG"] is False
    assert found["ALLOWED_HOSTS"] == []
    assert found["CONNPOOL_TOKEN"] is None
    secure = "SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"
    assert [found[name] for name in secure] == [True, True, True]
    assert found["SECURE_HSTS_SECONDS"] == 3600


def test_without_tls_nothing_asks_for_it(read: Read) -> None:
    found = read(**PRODUCTION, HTTPS="off")
    assert not found["SECURE_SSL_REDIRECT"]
    assert not found["SESSION_COOKIE_SECURE"]
    assert found["SECURE_HSTS_SECONDS"] == 0


def test_probes_are_asked_without_tls_and_the_page_is_not(read: Read) -> None:
    exempt = [re.compile(one) for one in read(**PRODUCTION)["SECURE_REDIRECT_EXEMPT"]]
    paths = "pool/live", "pool/ready", "pool/", "pool/metrics", "pool/live/x", ""
    assert [path for path in paths if any(one.search(path) for one in exempt)] == [
        *("pool/live", "pool/ready"),
    ]


@pytest.mark.parametrize("given", [{}, {"DATABASE_URL": ""}])
def test_for_development_there_is_a_server(
    read: Read, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    monkeypatch.setattr(embedded, "url", lambda: "postgres://postgres@/%2Fsome%2Ffolder/shop")
    database = read(DEBUG="on", **given)["DATABASES"]["default"]
    assert database["ENGINE"] == "django_connpool.backends.postgresql"
    assert database["USER"] == "postgres"
    pool = conf.parse(database)
    assert pool is not None
    assert pool.max_size == 4


@pytest.mark.usefixtures("no_embedded")
def test_options_of_the_pool_stand_in_the_url(read: Read) -> None:
    database = read(DEBUG="on", DATABASE_URL=f"{URL}?pool_max_size=20&pool_timeout=2.5")
    pool = conf.parse(database["DATABASES"]["default"])
    assert pool is not None
    assert (pool.max_size, pool.timeout) == (20, 2.5)


@pytest.mark.usefixtures("no_embedded")
def test_a_file_tells_what_the_environment_does_not(read: Read, project: Path) -> None:
    (project / ".env").write_text("ALLOWED_HOSTS=a.example.com\nCONNPOOL_TOKEN=of the file\n")
    found = read(**PRODUCTION, CONNPOOL_TOKEN="of the environment")
    assert found["ALLOWED_HOSTS"] == ["a.example.com"]
    assert found["CONNPOOL_TOKEN"] == "of the environment"


def test_the_example_names_what_the_settings_read_and_nothing_else() -> None:
    text = (SAMPLE / "testproject" / "settings.py").read_text()
    names = set(re.findall(r'\benv(?:\.\w+)?\(\s*"([A-Z_]+)"', text))
    assert {"DEBUG", "DATABASE_URL", "LOG_FORMAT"} < names
    assert set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE)) - OF_SERVERS == names


@pytest.mark.usefixtures("no_embedded")
def test_each_line_of_the_example_is_understood(read: Read, project: Path) -> None:
    lines = re.sub(r"^# (?=[A-Z_]+=)", "", EXAMPLE, flags=re.MULTILINE)
    (project / ".env").write_text(lines)
    found = read()
    assert found["ALLOWED_HOSTS"] == ["shop.example.com", "www.shop.example.com"]
    assert found["CELERY_BROKER_TRANSPORT_OPTIONS"]["data_folder_in"] == ".broker"
    assert found["LOGGING"]["handlers"]["console"]["formatter"] == "json"
    urls = re.findall(r"DATABASE_URL=(\S+)", EXAMPLE)
    assert len(urls) == 3
    for url in urls:
        database = read(DATABASE_URL=url)["DATABASES"]["default"]
        assert conf.problems(database) == ()
        assert database["OPTIONS"]


def test_a_task_runs_where_it_is_called_unless_there_is_a_broker(read: Read) -> None:
    assert read(**PRODUCTION)["CELERY_TASK_ALWAYS_EAGER"] is True
    assert read(**PRODUCTION, CELERY_BROKER_URL="redis://x")["CELERY_TASK_ALWAYS_EAGER"] is False


def check(*flags: str, **environ: str) -> list[str]:
    done = processes.run(SAMPLE, "manage.py", "check", *flags, **environ)  # it ends with 0
    return re.findall(r"\((\w+\.[A-Z]\d+)\)", done.stdout + done.stderr)


@pytest.mark.e2e
def test_the_checks_find_nothing(cluster: Server) -> None:
    assert check(DEBUG="on", DATABASE_URL=cluster.url()) == []


@pytest.mark.e2e
def test_what_the_checks_find_in_production_is_explained(cluster: Server) -> None:
    environ = {"SECRET_KEY": "abcdefghij" * 5, "ALLOWED_HOSTS": "shop.example.com"}
    found = check("--deploy", **environ, DEBUG="off", HTTPS="on", DATABASE_URL=cluster.url())
    assert found == ["security.W005", "security.W021"]
    page = (ROOT / "docs" / "example.md").read_text()
    assert [name for name in found if f"`{name}`" not in page] == []


def test_a_line_of_the_log_for_machines_has_the_fields_of_the_pool() -> None:
    record = logging.makeLogRecord(
        {"name": "some.logger", "msg": "%s: on loan", "args": ("default",)}
        | {"levelname": "WARNING", "pool": "default", "in_use": 3, "held": 1.5, "unknown": "x"}
    )
    line = json.loads(Json().format(record))
    assert line.pop("at").endswith("+00:00")
    assert line.pop("pid") == os.getpid()  # as poolstatus names it
    assert line == {
        **{"level": "WARNING", "logger": "some.logger"},
        **{"message": "default: on loan", "pool": "default", "in_use": 3, "held": 1.5},
    }


def test_an_error_in_the_log_for_machines_has_its_traceback_on_one_line() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    line = Json().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["traceback"]


def test_the_fields_of_the_log_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs" / "logs.md").read_text()
    told = text.partition("**Fields.**")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", told)) - {"scope"} == set(FIELDS)


def test_each_file_of_the_sample_stands_on_its_page() -> None:
    tree = (ROOT / "docs" / "example.md").read_text().partition("## What is where")[2]
    files = [
        *("testproject/*.py", "shop/*.py", "shop/management/commands/*.py"),
        *("*.py", ".env.example"),
    ]
    found = [path for pattern in files for path in SAMPLE.glob(pattern)]
    assert len(found) > 20
    lost = {path.name for path in found if path.stat().st_size and f" {path.name}" not in tree}
    assert lost == set()


def test_what_is_not_to_be_copied_says_so() -> None:
    named = {
        str(path.relative_to(SAMPLE))
        for path in SAMPLE.rglob("*.py")
        if re.search("not to be copied", path.read_text(), re.IGNORECASE)
    }
    assert named >= {
        *("manage.py", "shop/carrier.py", "shop/sample.py"),
        *("testproject/embedded.py", "testproject/settings.py"),
    }
