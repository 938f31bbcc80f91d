from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from django_connpool import registry
from django_connpool.management.commands import poolstatus
from django_connpool.status import directory, screen
from tests import inside
from tests.cluster import Server
from tests.signals import ctrl_c_taken
from tests.status.samples import answering, loan, obeying, pool, process
from tests.status.script import ROOT, running


def run(*args: str) -> str:
    out = io.StringIO()
    call_command("poolstatus", *args, stdout=out)
    return out.getvalue()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every database says at once that it is down."""
    monkeypatch.setattr(
        "django_connpool.status.activity.ask",
        lambda wrapper, details=False: {"error": "it is down"},
    )


@pytest.mark.usefixtures("status_dir")
def test_no_process_is_said_with_where_it_looked(status_dir: Path) -> None:
    shown = run()
    assert shown.startswith("No running process of this project has a connection pool.\n")
    assert f"Looked in {status_dir} as uid {os.getuid()}" in shown
    assert "other users are not seen" in shown


@pytest.mark.usefixtures("no_server")
def test_a_database_that_is_down_does_not_hide_the_pools(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process(pools=[pool(loans=[loan()])])):
        shown = run("--loans", "--server")
    assert "pid 4711  gunicorn shop.wsgi" in shown
    assert "GET /shop/orders/" in shown
    assert "server of 'default' did not say: it is down\n" in shown


@pytest.mark.usefixtures("no_server")
def test_json_is_json_and_nothing_else(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process()):
        found = json.loads(run("--format", "json"))
    assert found["version"] == 1
    assert found["processes"] == [process()]
    assert found["server"] == {"default": {"error": "it is down"}, "other": {"error": "it is down"}}
    assert json.loads(run("--format", "json"))["processes"] == []


@pytest.mark.usefixtures("no_server")
def test_prometheus_format(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process()):
        shown = run("--format", "prometheus")
    expected = 'db_client_connection_max{db_client_connection_pool_name="shop"'
    assert expected + ',host="web-1",pid="4711"} 10.0\n' in shown


@pytest.mark.usefixtures("no_server", "status_dir")
def test_prometheus_format_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "django_connpool.contrib.prometheus", raising=False)
    monkeypatch.delattr("django_connpool.contrib.prometheus", raising=False)
    with pytest.raises(CommandError, match=r"pip install 'django-connpool\[metrics\]'"):
        run("--format", "prometheus")


@pytest.mark.usefixtures("no_server")
def test_one_database_is_shown_alone(status_dir: Path) -> None:
    pools = [pool(), pool(alias="other", aliases=["other"])]
    with answering(status_dir / "4711.sock", process(pools=pools)):
        found = json.loads(run("--format", "json", "--database", "other"))
    assert [pool["alias"] for pool in found["processes"][0]["pools"]] == ["other"]
    assert list(found["server"]) == ["other"]


@pytest.mark.usefixtures("status_dir")
def test_an_unknown_alias_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CommandError) as error:
        run("--database", "defautl")
    assert str(error.value) == (
        "The database alias 'defautl' does not exist. Pooled aliases: 'default', 'other'."
    )


@pytest.mark.usefixtures("status_dir")
@pytest.mark.parametrize("engine", ["django.db.backends.sqlite3", "there.is.no.such.engine"])
def test_databases_of_other_engines_are_left_out(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    lite = {"ENGINE": engine, "NAME": ":memory:"}
    databases = connections.configure_settings({**connections.settings, "lite": lite})
    monkeypatch.setattr(connections, "settings", databases)
    try:
        assert inside.pooled_aliases() == ["default", "other"]
        with pytest.raises(CommandError, match="'lite' is not pooled by django_connpool"):
            run("--database", "lite")
    finally:
        # The wrapper is kept, and would be the other engine's too.
        with suppress(AttributeError):
            del connections["lite"]


def test_an_unsafe_directory_is_an_error(status_dir: Path) -> None:
    status_dir.chmod(0o755)
    with pytest.raises(CommandError, match="chmod 700"):
        run()


@pytest.mark.usefixtures("no_server")
def test_one_unsafe_place_does_not_hide_another(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [status_dir, status_dir / "open"]
    places[1].mkdir()
    monkeypatch.setattr("django_connpool.status.directory.candidates", lambda: places)
    with answering(status_dir / "4711.sock", process()):
        shown = run()
    assert shown.startswith(f"not looked into: {places[1]} is open to other users")
    assert "\n4711 " in shown


@pytest.mark.usefixtures("status_dir")
def test_a_platform_without_unix_sockets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("socket.AF_UNIX")
    with pytest.raises(CommandError, match="no Unix sockets"):
        run()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_impossible_interval_is_refused(seconds: str) -> None:
    with pytest.raises(CommandError, match="not a number of seconds above 0"):
        run("--watch", seconds)


@pytest.mark.usefixtures("no_server")
def test_watching_asks_again_until_interrupted(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = mock.Mock(side_effect=[True, KeyboardInterrupt])
    monkeypatch.setattr(screen.Screen, "wait", wait)
    with answering(status_dir / "4711.sock", process(), process(pid=12)):
        shown = run("--format", "json", "--watch")
    first, second = map(json.loads, shown.splitlines())
    assert wait.mock_calls == [mock.call(2.0)] * 2
    assert (first["processes"][0]["pid"], second["processes"][0]["pid"]) == (4711, 12)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def watched(no_server: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[io.StringIO], str]:
    """What `--watch` writes to a terminal of 90 x 12 or a file before its third report is due."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.delenv("TERM", raising=False)

    def watch(out: io.StringIO) -> str:
        wait = mock.Mock(side_effect=[True, KeyboardInterrupt])
        monkeypatch.setattr(screen.Screen, "wait", wait)
        call_command("poolstatus", "--watch", "1", "--loans", stdout=out, no_color=True)
        return out.getvalue()

    return watch


def test_a_watched_table_says_the_time_and_is_drawn_again_in_place(
    status_dir: Path, watched: Callable[[io.StringIO], str]
) -> None:
    cleared, first, second = watched(Terminal()).split("\x1b[H")
    assert cleared == ""
    assert first.startswith("\x1b[2J")
    assert "\x1b[2J" not in second
    for drawn in (first.removeprefix("\x1b[2J"), second):
        lines = drawn.split("\n")
        assert lines.pop() == "\x1b[J"
        assert all(line.endswith("\x1b[K") for line in lines)
        assert time.strptime(lines[0].removesuffix("  (q ends)\x1b[K"), "%H:%M:%S")


def test_a_table_higher_than_the_terminal_does_not_scroll_it(
    status_dir: Path, watched: Callable[[io.StringIO], str]
) -> None:
    busy = process(pools=[pool(loans=[loan(note="x" * 300)] * 30)])
    with answering(status_dir / "4711.sock", busy, busy):
        drawn = watched(Terminal()).split("\x1b[H")[2].replace("\x1b[K", "")
    lines = drawn.removesuffix("\x1b[J").splitlines()
    assert len(lines) < 12
    assert max(map(len, lines)) <= 90
    assert lines[-1] == "(31 more lines: make the window higher)"


def test_what_is_no_terminal_gets_no_escape_codes(
    status_dir: Path, watched: Callable[[io.StringIO], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b" not in watched(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    shown = watched(Terminal())
    assert "\x1b" not in shown
    assert shown.count("No running process") == 2


@pytest.mark.usefixtures("status_dir")
def test_an_interrupt_without_watching_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(poolstatus, "collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()


def command(*args: str) -> list[str]:
    # tests.settings leaves CONNPOOL_STATUS_DIR to whoever runs it.
    code = (
        "import os, sys; from django.conf import settings;"
        "settings.CONNPOOL_STATUS_DIR = os.environ['CONNPOOL_STATUS_DIR'];"
        "from django.core.management import execute_from_command_line as run;"
        "run(['manage.py', 'poolstatus', *sys.argv[1:]])"
    )
    return [sys.executable, "-c", code, *args]


def environ(status_dir: Path, url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CONNPOOL_STATUS_DIR": str(status_dir),
        "DATABASE_URL": url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "testproject")]),
    }


def test_the_pool_of_another_process_is_seen_from_a_third(
    status_dir: Path, cluster: Server
) -> None:
    env = environ(status_dir, cluster.url())
    with running("borrow", status_dir, **env) as borrower:
        backend = json.loads(borrower.said)["backend"]  # type: ignore[attr-defined]
        shown = subprocess.run(
            command("--format", "json", "--database", "default"),
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    found = json.loads(shown.stdout)
    (seen,) = found["processes"]
    assert seen["pid"] == borrower.pid
    (its_pool,) = seen["pools"]
    assert (its_pool["alias"], its_pool["in_use"], its_pool["size"]) == ("default", 1, 1)
    (its_loan,) = its_pool["loans"]
    assert its_loan["backend_pid"] == backend
    assert its_loan["thread"] == "MainThread"
    assert its_loan["transaction"] == "INTRANS"
    assert found["server"]["default"]["in_database"] >= 1


@pytest.mark.once
def test_asking_makes_no_pool_and_needs_no_server(status_dir: Path) -> None:
    before = registry.live()
    env = environ(status_dir, "postgres://nobody@127.0.0.1:1/shop")
    shown = subprocess.run(
        command("--server"),
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert shown.stdout.startswith("No running process of this project has a connection pool.")
    assert "server of 'default' did not say: " in shown.stdout
    assert "refused" in shown.stdout
    assert shown.stderr == ""
    run()
    assert registry.live() == before
    assert list(status_dir.iterdir()) == []


NOWHERE = "postgres://nobody@127.0.0.1:1/shop"
UNBUFFERED = "PYTHONUNBUFFERED"


@pytest.mark.once
def test_a_process_that_hangs_is_told_by_the_exit_status(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", None),
        answering(status_dir / "21.sock", process(pid=21)),
    ):
        shown = subprocess.run(
            command("--format", "json"),
            cwd=ROOT,
            env=environ(status_dir, NOWHERE),
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert shown.returncode == 2
    assert [process["pid"] for process in json.loads(shown.stdout)["processes"]] == [21]
    assert shown.stderr == "CommandError: 1 process gave no usable answer.\n"


@pytest.mark.once
def test_a_reader_that_has_seen_enough_ends_it_quietly(status_dir: Path) -> None:
    buffered = {
        key: item for key, item in environ(status_dir, NOWHERE).items() if key != UNBUFFERED
    }
    with subprocess.Popen(
        command("--watch", "0.01", "--format", "json"),
        cwd=ROOT,
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            watching.stdout.readline()
            watching.stdout.close()
            assert watching.stderr.read() == ""
            assert watching.wait(timeout=30) == 0
        finally:
            watching.kill()


@pytest.mark.usefixtures("no_server")
def test_other_projects_are_shown_when_asked_for(status_dir: Path, settings: Any) -> None:
    settings.CONNPOOL_PROJECT = "blog"
    path = directory.socket_path(status_dir, 4711)
    del settings.CONNPOOL_PROJECT
    with answering(path, process(project="blog")):
        shown = run()
        assert "There is 1 socket of other projects, whose processes may have ended" in shown
        assert f"This one is '{ROOT}:tests'" in shown
        assert "4711" not in shown
        assert "\n4711 " in run("--all-projects")


@pytest.mark.once
def test_ctrl_c_ends_watching_cleanly(status_dir: Path) -> None:
    env = environ(status_dir, "postgres://nobody@127.0.0.1:1/shop")
    with ctrl_c_taken():
        watching = subprocess.Popen(
            command("--watch", "30", "--format", "json"),
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with watching:
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["version"] == 1
            watching.send_signal(signal.SIGINT)
            _, errors = watching.communicate(timeout=30)
        finally:
            watching.kill()
    assert (watching.returncode, errors) == (0, "")


# -- The first screen ---------------------------------------------------------------------


def held(*pids: int) -> dict[str, Any]:
    """A process whose connections are all held for long."""
    loans = [loan(held=75.0, backend_pid=pid) for pid in pids]
    return process(pools=[pool(max_size=len(pids), loans=loans, waiting=0, longest_wait=0.0)])


def test_the_first_line_is_the_verdict_and_no_server_is_asked(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_connpool.status.activity.ask", None)
    with answering(status_dir / "4711.sock", held(1, 2)):
        shown = run()
    assert shown.startswith(
        "stuck: pid 4711, default: all 2 connections have been on loan for more than 1m 15s\n\n"
    )


@pytest.mark.usefixtures("no_server")
def test_the_verdict_stands_in_the_json_too(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", held(1)):
        found = json.loads(run("--format", "json", "--advise"))
    assert found["verdict"]["word"] == "stuck"
    assert found["advice"]["default"].endswith("it is down")


@pytest.mark.usefixtures("no_server")
def test_advice_is_shown_alone(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process()):
        shown = run("--advise")
    assert "\n\ndefault: the server did not say how many it admits: it is down" in shown
    assert "PROCESS" not in shown


def test_one_process_is_shown_alone(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", process(pid=20), process(pid=20)),
        answering(status_dir / "21.sock", process(pid=21), process(pid=21)),
    ):
        shown = run("--process", "21")
        with pytest.raises(CommandError, match="No process 22 of this project"):
            run("--process", "22")
    assert "\n21 " in shown
    assert "\n20 " not in shown


@pytest.mark.parametrize(
    ("least", "status"), [(None, 0), ("busy", 4), ("stuck", 4), ("down", 0)], ids=str
)
def test_the_exit_status_tells_what_it_was_asked_to_fail_on(
    status_dir: Path, least: str | None, status: int
) -> None:
    asked = [] if least is None else ["--fail-on", least]
    with answering(status_dir / "4711.sock", held(1)):
        if not status:
            run(*asked)
            return
        with pytest.raises(CommandError) as error:
            run(*asked)
    assert error.value.returncode == status
    assert str(error.value).startswith("stuck: pid 4711")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"waiting": 1, "longest_wait": 5.5}, 3),
        ({"last_error": "connection refused"}, 5),
    ],
)
def test_each_verdict_has_an_exit_status_of_its_own(
    status_dir: Path, changes: Any, status: int
) -> None:
    with (
        answering(status_dir / "4711.sock", process(pools=[pool(**changes)])),
        pytest.raises(CommandError) as error,
    ):
        run("--fail-on", "busy")
    assert error.value.returncode == status


def test_the_limits_of_the_verdict_can_be_chosen(status_dir: Path) -> None:
    waiting = process(pools=[pool(waiting=1, longest_wait=1.5)])
    with answering(status_dir / "4711.sock", held(1), waiting):
        assert run("--stuck-after", "80").startswith("well:")
        assert run("--busy-after", "2").startswith("well:")


def test_a_process_that_does_not_answer_keeps_its_own_status(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", b"nonsense", b"nonsense"),
        answering(status_dir / "21.sock", process(pid=21), held(1)),
    ):
        for status in (2, 4):  # and a pool that is stuck comes before it
            with pytest.raises(CommandError) as error:
                run("--fail-on", "stuck")
            assert error.value.returncode == status


@pytest.mark.usefixtures("status_dir")
def test_nobody_is_no_failure() -> None:
    assert run("--fail-on", "busy").startswith("No running process")


def test_a_process_without_pools_is_well(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process(pools=[])):
        assert run("--fail-on", "busy").startswith("well: no pool is open")


@pytest.mark.usefixtures("status_dir")
def test_watching_does_not_end_with_a_status() -> None:
    with pytest.raises(CommandError, match="does not end by itself"):
        run("--watch", "--fail-on", "busy")


def test_a_terminal_has_colours_unless_somebody_objects(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(**options: Any) -> str:
        out = Terminal()
        with answering(status_dir / "4711.sock", process()):
            call_command("poolstatus", stdout=out, **options)
        (status_dir / "4711.sock").unlink()
        return out.getvalue()

    assert shown().startswith("\x1b[32mwell\x1b[0m: ")
    assert "\x1b" not in shown(no_color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()
    assert "\x1b" in shown(force_color=True)


# -- Hands --------------------------------------------------------------------------------


@pytest.mark.once
def test_a_command_is_done_by_every_process_and_said(status_dir: Path, cluster: Server) -> None:
    env = environ(status_dir, cluster.url())
    with running("borrow", status_dir, **env) as one, running("borrow", status_dir, **env) as two:
        shown = run("resize", "7")
        assert sorted(shown.splitlines()) == [
            f"pid {pid}  default: max_size is 7, until the process ends"
            for pid in sorted([one.pid, two.pid], key=str)
        ]
        shown = run("resize", "8", "--process", str(one.pid))
        assert shown.startswith(f"pid {one.pid}  default: max_size is 8")
        assert f"pid {two.pid}" not in shown
        sizes = {
            process["pid"]: process["pools"][0]["max_size"]
            for process in json.loads(run("--format", "json"))["processes"]
        }
        assert sizes == {one.pid: 8, two.pid: 7}
        backend = json.loads(one.said)["backend"]  # type: ignore[attr-defined]
        with pytest.raises(CommandError) as error:
            run("cancel", str(backend))
        assert str(error.value) == (
            f"not done: pid {one.pid}: default: backend {backend} (no request) is in no statement:"
            " there is nothing to cancel"
        )


@pytest.mark.usefixtures("status_dir")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["resize"], "resize needs the size"),
        (["cancel"], "cancel needs the backend's pid"),
        (["drain", "5"], "drain takes no number"),
        (["drain"], "has a connection pool.\nLooked in .* as uid"),
        (["cancel", "5"], "has a connection pool.\nLooked in .* as uid"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_what_cannot_be_done_is_said(args: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(*args)


def test_what_no_running_process_has_is_said(status_dir: Path) -> None:
    with (
        answering(status_dir / "4711.sock", process(), process()),
        pytest.raises(CommandError, match=r"has a loan of backend 5\.$"),
    ):
        run("cancel", "5")
    with (
        answering(status_dir / "4712.sock", process(), process()),
        pytest.raises(CommandError, match=r"has such a pool\.$"),
    ):
        run("drain", "--process", "1")


def test_resize_wants_an_alias_where_there_are_several(status_dir: Path) -> None:
    pools = [pool(), pool(alias="other", aliases=["other"])]
    with (
        answering(status_dir / "4711.sock", process(pools=pools)),
        pytest.raises(CommandError, match="resize needs --database, one of: default, other"),
    ):
        run("resize", "5")


def test_a_backend_of_two_servers_is_not_guessed(status_dir: Path) -> None:
    with (
        answering(status_dir / "20.sock", {**held(77), "pid": 20}),
        answering(status_dir / "21.sock", {**held(77), "pid": 21}),
        pytest.raises(CommandError, match="There are 2 loans of a backend 77"),
    ):
        run("cancel", "77")


def test_who_does_not_obey_is_said_with_the_exit_status(status_dir: Path) -> None:
    path = directory.socket_path(status_dir, 20)
    with (
        answering(path, process(pid=20), process(pid=20)),
        obeying(path.with_suffix(directory.HAND), b'{"ok": false, "text": "no, thank you"}'),
        answering(status_dir / "21.sock", b"nonsense"),
        pytest.raises(CommandError) as error,
    ):
        run("drain")
    assert error.value.returncode == 1
    assert str(error.value).splitlines() == [
        "not done: pid 21 answered something that is not JSON",
        "not done: pid 20: no, thank you",
    ]
