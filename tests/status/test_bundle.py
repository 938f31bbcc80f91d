"""`poolstatus --report` tells what one needs to help, and nothing that is somebody's."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connections, transaction

import django_connpool
from django_connpool.status import bundle, harmless, server
from tests.databases import Databases
from tests.status.samples import answering, loan, pool, process

SECRET = "hunter2"  # part of everything that must not be told


def run(*args: str) -> tuple[str, dict[str, Any]]:
    out = io.StringIO()
    call_command("poolstatus", "--report", *args, stdout=out)
    return out.getvalue(), json.loads(out.getvalue())


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "django_connpool.status.activity.ask",
        lambda wrapper, details=False: {"error": f'role "{SECRET}" does not exist'},
    )


def credentials(params: dict[str, Any]) -> dict[str, Any]:
    return {"password": f"{SECRET}-called"}


def failing_credentials(params: dict[str, Any]) -> dict[str, Any]:
    raise LookupError(f"the vault has no {SECRET} of {params['host']}")


@pytest.fixture
def secrets_in_the_site(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.SECRET_KEY = f"{SECRET}-key"
    settings.CONNPOOL_TOKEN = f"{SECRET}-token-of-the-page"
    settings.CONNPOOL_PROJECT = f"{SECRET}-project"
    settings.CONNPOOL_BUDGETS = {f"{SECRET}-budget": {"max_size": 7}}
    for name in ("PGPASSWORD", "DATABASE_URL", "GUNICORN_CMD_ARGS", f"PG{SECRET}", "TOKEN"):
        monkeypatch.setenv(name, f"postgres://me:{SECRET}@{SECRET}.example/shop")
    monkeypatch.setattr("socket.gethostname", lambda: f"{SECRET}.example")
    monkeypatch.setattr("sys.argv", ["manage.py", "work", f"--password={SECRET}", SECRET])


@pytest.mark.usefixtures("secrets_in_the_site")
def test_a_running_pool_is_told_of_without_a_secret(status_dir: Path, databases: Databases) -> None:
    wrapper = databases.add(
        pool={"max_size": 3, "credentials": credentials, "name": f"{SECRET}-pool"},
        options={
            "application_name": f"{SECRET}-application",
            "options": f"-c app.secret={SECRET}",
            "passfile": f"/home/{SECRET}/.pgpass",
        },
        PASSWORD=f"{SECRET}-settings",
        ATOMIC_REQUESTS=True,
    )
    databases.add(
        "away",
        pool={"credentials": f"{__name__}.failing_credentials"},
        PASSWORD=SECRET,
        HOST=f"{SECRET}.invalid",
        USER=SECRET,
        NAME=SECRET,
        PORT="1",
    )
    server.start()
    with (
        django_connpool.scope(f"GET /reset/{SECRET}/"),
        transaction.atomic("spare"),
        wrapper.cursor() as cursor,
    ):
        cursor.execute(f"SELECT '{SECRET}', pg_backend_pid() /* {SECRET} */")
        pid = cursor.fetchone()[1]
        text, found = run()
    assert SECRET not in text
    (here,) = found["processes"]
    (seen,) = [one for one in here["pools"] if "spare" in one["aliases"]]
    assert (seen["max_size"], seen["name"], here["host"]) == (3, "***", "host 1")
    (held,) = seen["loans"]
    assert held["backend_pid"] == pid
    assert held["note"] == "GET ***"
    assert held["thread"] == "MainThread"
    assert held["statement"] == "SELECT ?, pg_backend_pid()"
    spare = found["databases"]["spare"]
    assert spare["ATOMIC_REQUESTS"] is True
    assert spare["pool"]["credentials"] == "callable"
    assert spare["OPTIONS"]["options"] == "***"
    assert re.fullmatch(r"\d+(\.\d+)*", found["servers"]["spare"]["version"])
    # No host of that name, or nobody who could be asked for it.
    assert set(found["servers"]["away"]["error"].split("; ")) <= {*harmless.PHRASES, "***"}
    assert found["settings"]["CONNPOOL_BUDGETS"] == [{"max_size": 7}]


@pytest.mark.usefixtures("no_server")
def test_what_another_process_says_is_believed_to_hold_secrets(status_dir: Path) -> None:
    held = loan(
        note=f"/{SECRET} GET",
        thread=SECRET,
        taken_at=f"/home/{SECRET}/venv/lib/python3.13/site-packages/shop/jobs.py:7 in run",
        at=f"/home/{SECRET}/shop/orders/views.py:42 in <lambda>",
        statement=f"UPDATE shop_order SET card = '{SECRET}' WHERE id = 4711",
        pinned=f"cursors, {SECRET}",
        transaction=SECRET,
        unknown=SECRET,
    )
    shown = pool(
        aliases=["default", SECRET],
        loans=[held],
        last_error=f'connection to server at "{SECRET}" (10.0.0.3), port 5432 failed: FATAL: '
        f'password authentication failed for user "{SECRET}" (28P01)',
        events=[{"ago": 1.0, "times": 2, "text": f"connecting failed: {SECRET} said no"}],
        listening={"channels": [SECRET], "listeners": 1, "error": SECRET, "lost": None},
        bounds=[{"name": f"budget {SECRET!r}", "role": SECRET, "others": [{"pool": SECRET}]}],
        outage={"kind": SECRET, "since": 4.0},
    )
    said = process(
        host=f"{SECRET}-1",
        command=f"gunicorn --workers 4 -k gthread --env KEY={SECRET} -b {SECRET}:80 --threads=8",
        settings=f"{SECRET}.settings",
        project=f"/home/{SECRET}",
        pools=[shown],
    )
    with answering(status_dir / "4711.sock", said):
        text, found = run()
    assert SECRET not in text and "4711 in" not in text and "10.0.0.3" not in text
    (here,) = found["processes"]
    assert here["command"] == "gunicorn --workers 4 -k gthread *** --threads=8"
    (seen,) = here["pools"]
    (held,) = seen["loans"]
    assert held["taken_at"] == "shop/jobs.py:7 in run"
    assert held["at"] == "orders/views.py:42 in <lambda>"
    assert held["statement"] == "UPDATE shop_order SET card = ? WHERE id = ?"
    assert held["pinned"] == "cursors, ***"
    assert held["note"] == "***"
    assert seen["last_error"] == "password authentication failed; 28P01"
    assert seen["events"][0]["text"] == "connecting failed"
    assert seen["aliases"] == ["default", "***"]
    assert found["servers"]["default"] == {"error": "does not exist"}


@pytest.mark.usefixtures("no_server")
def test_two_hosts_can_be_told_apart(status_dir: Path) -> None:
    with (
        answering(status_dir / "1.sock", process(pid=1, host="a")),
        answering(status_dir / "2.sock", process(pid=2, host="b")),
        answering(status_dir / "3.sock", process(pid=3, host="a")),
    ):
        _, found = run()
    assert [one["host"] for one in found["processes"]] == ["host 1", "host 2", "host 1"]


@pytest.mark.usefixtures("no_server", "status_dir")
def test_without_processes_it_tells_what_there_is() -> None:
    _, found = run()
    assert found["processes"] == []
    packages = found["versions"]["packages"]
    assert django_connpool.__version__.startswith(packages["django-connpool"])
    assert packages["psycopg"]
    assert "django_connpool" in found["settings"]["INSTALLED_APPS"]
    assert found["settings"]["MIDDLEWARE"][0].endswith(".ConnectionPoolMiddleware")
    assert found["databases"]["other"]["pool"] == {
        "max_size": 3,
        "min_size": 0,
        "release": "auto",
        "timeout": 10.0,
    }
    # Which of them, the server says that other tests have asked for, or have not.
    assert found["databases"]["other"]["HOST"] in {"socket", "this machine", "network"}


@pytest.mark.usefixtures("no_server", "status_dir")
def test_wrong_settings_are_told_of_without_what_they_say(databases: Databases) -> None:
    databases.add(pool={"credentials": SECRET, "tiemout": SECRET})
    databases.add("off", pool=False)
    databases.add("number", PASSWORD=17042, options={"password": 17042, "sslmode": SECRET})
    text, found = run()
    assert SECRET not in text and "17042" not in text
    problems = ["ImpossibleValue", "UnknownOption"]
    assert found["databases"]["spare"]["pool"] == {"problems": problems}
    assert found["databases"]["off"]["pool"] == "off"
    told = {check["id"]: check for check in found["checks"]}
    assert told["django_connpool.E001"]["level"] == checks.ERROR


@pytest.mark.usefixtures("no_server", "status_dir")
def test_what_fails_is_told_of_and_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(bundle.checks, "run_checks", fail)
    monkeypatch.setattr(bundle.conf, "problems", fail)
    text, found = run()
    assert SECRET not in text
    assert found["checks"] == {"failed": "ZeroDivisionError"}
    assert found["databases"]["default"]["pool"] == {"failed": "ZeroDivisionError"}
    assert found["versions"]["django"]


@pytest.mark.usefixtures("no_server", "status_dir")
@pytest.mark.parametrize("other", [("--watch",), ("--fail-on", "busy"), ("drain",)])
def test_a_report_does_not_go_with_what_acts_judges_or_goes_on(other: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="printed once"):
        run(*other)


def test_databases_of_other_engines_are_named(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, no_server: None
) -> None:
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": f"/{SECRET}"}
    databases = connections.configure_settings({**connections.settings, "lite": lite})
    monkeypatch.setattr(connections, "settings", databases)
    try:
        text, found = run()
    finally:
        del connections["lite"]
    assert found["databases"]["lite"] == {"ENGINE": "django.db.backends.sqlite3"}
    assert SECRET not in text


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", "socket"),
        ("/run/postgresql", "socket"),
        ("a.example,b.example", "2 hosts"),
        ("localhost", "this machine"),
        ("db.example", "network"),
        (None, "socket"),
    ],
)
def test_a_place_is_told_by_its_kind(host: str | None, told: str, databases: Databases) -> None:
    databases.add(HOST=host)
    assert (
        bundle.make(bundle.Report(), {"spare": connections["spare"]})["databases"]["spare"]["HOST"]
        == told
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Thread-3 (send_to_alice)", "Thread-3"),
        ("ThreadPoolExecutor-0_3", "ThreadPoolExecutor-0_3"),
        ("thread 1234 (ended)", "thread 1234 (ended)"),
        ("alice", "***"),
    ],
)
def test_a_thread_has_the_name_that_python_gave_it(text: str, told: str) -> None:
    assert harmless.thread(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("16.2 (Debian 16.2-1.pgdg120+2)", "16.2"),
        ("18beta1 of ours", "18beta1"),
        ("1.0.dev3+g12ab.d2026", "1.0.dev3+g12ab"),
        ("1.0+acme", "1.0"),
        ("ours", "***"),
    ],
)
def test_of_a_version_its_number_stays(text: str, told: str) -> None:
    assert harmless.version(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("manage.py runserver 10.0.0.3:8000", "manage.py runserver ***"),
        ("celery -A shop worker -c 4 -P prefork", "celery *** worker -c 4 -P prefork"),
        ("celery -A shop worker 4", "celery *** worker ***"),
        ("manage.py work --password test run -w 9x", "manage.py *** -w ***"),
        ("-c 1704 pass", "-c 1704 ***"),
        ("", ""),
    ],
)
def test_of_a_command_line_the_known_words_stay(text: str, told: str) -> None:
    assert harmless.command(text) == told
