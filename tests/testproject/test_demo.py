from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import django
import httpx
import psutil
import pytest

from tests.cluster import Cluster
from tests.signals import ctrl_c_taken
from tests.testproject.processes import MARK, alive, wait_until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
ON_LINUX = Path("/proc/sysvipc/shm").exists()
# Of what is said before a server is needed.
NOWHERE = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/shop"}
SHORT = ["--contenders", "ours", "--seconds", "1"]
POOL_OF_DJANGO = ["Django's pool"] if django.VERSION >= (5, 1) else []
STARTED: list[subprocess.Popen[str]] = []
NAMES = ["stock Django", *POOL_OF_DJANGO, "django-connpool"]


@pytest.fixture
def project(place: Path) -> Path:
    """A copy of the project, with an embedded server of its own."""
    return shutil.copytree(
        ROOT / "testproject",
        place / "testproject",
        ignore=shutil.ignore_patterns(".postgres", "__pycache__"),
    )


def environment(project: Path) -> dict[str, str]:
    """As with most users: the demo finds a server and a place for its sockets by itself."""
    left_out = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE", "CONNPOOL_STATUS_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    temporary(project).mkdir(exist_ok=True)
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary(project)),
        MARK: str(project),
    }


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """A test that fails leaves no demo running."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def start(project: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    with ctrl_c_taken():
        process = subprocess.Popen(
            [sys.executable, str(project / "manage.py"), "demo", *arguments],
            env={**environment(project), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    STARTED.append(process)
    return process


def run(project: Path, *arguments: str, **more: str) -> tuple[int, str]:
    process = start(project, *arguments, **more)
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it said up to the line with this text."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


def temporary(project: Path) -> Path:
    return project.parent / "tmp"


def nothing_left(project: Path) -> None:
    """No process, and nothing in the folder for what is temporary."""
    wait_until(lambda: not alive(str(project)), "no process is left")
    wait_until(lambda: not list(temporary(project).iterdir()), "no file is left")


def shared_memory(project: Path) -> set[str]:
    """What the project's server keeps outside of its folder while it runs."""
    found = (project / ".postgres" / "data" / "postmaster.pid").read_text().splitlines()
    pages = psutil.Process(int(found[0])).memory_maps(grouped=False)
    files = {page.path for page in pages if page.path.startswith("/dev/shm/")}
    return {f"segment {found[6].split()[1]}", *files}


def is_there(memory: str) -> bool:
    kind, _, number = memory.partition(" ")
    if kind != "segment":
        return Path(memory).exists()
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return any(line.split()[1] == number for line in segments)


def figures(output: str, row: str) -> list[int]:
    """Those of a row of the table at the end; a star is left out."""
    line = re.search(rf"^│\W+{row}\W+(│.*)", output.partition("Measured just now")[2], re.MULTILINE)
    assert line, output
    return [int(number) for number in re.findall(r"\d+", line[1])]


def test_the_demo_tells_its_story_and_leaves_nothing_running(project: Path) -> None:
    code, output = run(project, "--seconds", "1")
    assert code == 0, output
    assert "A PostgreSQL server is being made in" in output
    for name in NAMES:
        assert f"\n{name}: " in output
    if not POOL_OF_DJANGO:
        assert "Without Django's pool: Django 4.2" in output
    for scene in ("everyday", "slow page", "restart", "connections"):
        assert len(re.findall(rf"^  {scene}: ", output, re.MULTILINE)) == len(NAMES)
    assert all(figures(output, "answers/s"))
    opened, most = figures(output, "connections opened"), figures(output, "open at once")
    assert opened[0] > opened[-1] >= 1
    # 12 are on the slow page at once: who has no bound needs that many.
    assert most[0] > 8
    assert 1 <= most[-1] <= 8
    # The leak, and the line of code that poolstatus names.
    source = (project / "demo" / "planted.py").read_text().splitlines()
    number = 1 + source.index("        _answer.wait()")
    assert output.count(f"planted.py:{number} in _tell_partner\n") == 3
    assert f"3 connections, in _tell_partner, demo/planted.py line {number}:\n" in output
    assert "\n    _answer.wait()\n" in output
    assert "Traceback" not in output
    nothing_left(project)


def serving(project: Path) -> bool:
    return any("gunicorn" in command for command in alive(str(project)))


def starting(project: Path) -> bool:
    return any("embedded.py" in command for command in alive(str(project)))


def restarting(project: Path) -> bool:
    return any(command.endswith(" restart") for command in alive(str(project)))


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, serving),
        (signal.SIGTERM, serving),
        (signal.SIGHUP, serving),
        (signal.SIGINT, starting),
        (signal.SIGTERM, starting),
        (signal.SIGINT, restarting),
    ],
)
def test_an_interrupted_demo_leaves_nothing_running(
    project: Path, number: int, moment: Callable[[Path], bool]
) -> None:
    process = start(project, *SHORT)
    wait_until(lambda: moment(project), "the demo has come so far")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if moment is not starting:
        assert output.endswith("CommandError: Interrupted.\n")
        assert process.returncode == 128 + number
    nothing_left(project)


@pytest.mark.parametrize("moment", [starting, serving, restarting])
def test_a_killed_demo_leaves_nothing_running(
    project: Path, moment: Callable[[Path], bool]
) -> None:
    process = start(project, *SHORT)
    wait_until(lambda: moment(project), "the demo has come so far")
    memory = shared_memory(project) if moment is serving and ON_LINUX else set()
    assert all(map(is_there, memory))
    process.kill()
    process.communicate(timeout=60)
    nothing_left(project)
    assert not any(map(is_there, memory))


def test_a_demo_that_stays_can_be_looked_at_until_it_is_interrupted(project: Path) -> None:
    process = start(project, *SHORT, "--keep")
    said = read_until(process, "poolstatus --loans\n")
    while "In another terminal:" not in said:
        said += read_until(process, "poolstatus --loans\n")

    # The story, in a browser.
    (story,) = re.findall(r"In your browser, as it goes on: (\S+)", said)
    page = httpx.get(story).text
    assert "demo/planted.py line" in page
    assert httpx.get(story, headers={"Host": "example.com"}).status_code == 404

    # The page of the pools: who has the address of the story needs no token.
    (look,) = re.findall(r"The page of the pools: (\S+)", said)
    assert look in page
    with httpx.Client(follow_redirects=True) as browser:
        form = browser.get(look).text
        (address,) = re.findall(r'action="([^"]*)"', form)
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
        shown = browser.post(urljoin(look, address), data=fields)
        assert shown.url.path == "/pool/"
        assert "planted.py" in shown.text
    assert httpx.get(urljoin(look, "/pool/")).status_code == 403

    # The command that the demo names.
    command = said.rstrip().splitlines()[-1].strip()
    found = subprocess.run(
        command, shell=True, env=environment(project), capture_output=True, text=True, timeout=60
    )
    assert "planted.py" in found.stdout, found.stderr

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    nothing_left(project)


def test_a_server_of_somebody_else_is_not_restarted(
    project: Path, throwaway_cluster: Cluster
) -> None:
    def began() -> object:
        return throwaway_cluster.execute("SELECT pg_postmaster_start_time()")

    before = began()
    code, output = run(project, *SHORT, DATABASE_URL=throwaway_cluster.url())
    assert code == 0, output
    assert re.search(r"restart: +the server, which is not the demo's own, ends [1-8] conn", output)
    assert "All connections were ended by the server: django-connpool" in output
    assert "best:" not in output  # it was alone
    assert "fewest" not in output
    assert began() == before
    assert not (project / ".postgres").exists()
    nothing_left(project)


def test_the_help_names_every_option(project: Path) -> None:
    code, output = run(project, "--help", **NOWHERE)
    assert code == 0
    for option in ("seconds", "concurrency", "workers", "threads", "port", "contenders", "keep"):
        assert f"--{option}" in output
    assert "\n  restart    the server goes away" in output
    nothing_left(project)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--workers", "0"], {}, "--workers has to be 1 or more."),
        (["--port", "65536"], {}, "--port has to be from 0 to 65535."),
        (["--contenders", "theirs"], {}, "invalid choice: 'theirs'"),
        (["--contenders", "stock", "--keep"], {}, "--keep is for django-connpool"),
        ([], {"DATABASE_URL": NOWHERE["DATABASE_URL"] + "?pool=off"}, "says pool=off"),
        ([], {}, "database does not answer"),
        ([], {"DATABASE_URL": NOWHERE["DATABASE_URL"] + "?pool_max_siez=1"}, "pool_max_size"),
    ],
)
def test_what_cannot_work_is_said(
    project: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    code, output = run(project, *arguments, **{**NOWHERE, **environment})
    assert code != 0
    assert message in output
    nothing_left(project)


def test_a_port_in_use_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run(project, "--port", str(port), **NOWHERE)
    assert code != 0
    assert f"Port {port} cannot be served on" in output
    nothing_left(project)


@pytest.mark.parametrize("missing", ["gunicorn", "rich", "environ"])
def test_what_is_missing_is_named(project: Path, missing: str) -> None:
    # What stands in for it cannot be imported, and is found first.
    (project / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module {missing}')")
    code, output = run(project, **NOWHERE)
    assert code != 0
    assert missing in output
    assert "pip install -e '.[demo]'" in output
    nothing_left(project)
