from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testproject import embedded
from tests.signals import ctrl_c_taken
from tests.testproject.processes import alive, wait_until

pytestmark = pytest.mark.e2e

# Uses the server, says so, and goes on with what the test gives it.
USER = """
import os, pathlib, sys
from testproject import embedded
home = pathlib.Path(sys.argv[1])
url = embedded.url(home)
import psycopg
psycopg.connect(host=url.split("@/")[1].rpartition("/")[0], user="postgres", dbname="shop").close()
print(url, flush=True)
"""
UNTIL_TOLD = "sys.stdin.read()"


def user(home: Path, then: str) -> subprocess.Popen[str]:
    with ctrl_c_taken():
        process = subprocess.Popen(
            [sys.executable, "-c", USER + then, str(home)],
            cwd=Path(embedded.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgres://postgres@//"), (
        "the server did not start"
    )
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)


def gone(home: Path) -> None:
    wait_until(lambda: not alive(str(home)), "the server and its keeper are gone")


def servers(home: Path) -> int:
    return sum(" -D " in command for command in alive(str(home / "data")))


def test_the_server_goes_with_its_last_user(place: Path) -> None:
    first, second = user(place, UNTIL_TOLD), user(place, UNTIL_TOLD)
    end(first)
    assert servers(place) == 1
    third = user(place, UNTIL_TOLD)
    end(second)
    end(third)
    gone(place)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_goes_when_its_user_is_killed(place: Path, number: int) -> None:
    process = user(place, UNTIL_TOLD)
    process.send_signal(number)
    process.communicate(timeout=30)
    gone(place)


def test_a_forked_child_is_a_user(place: Path) -> None:
    parent = user(place, "pid = os.fork()\nif not pid: sys.stdin.read()\nelse: print(pid)")
    assert parent.stdout is not None
    parent.stdout.readline()
    parent.wait(30)
    assert servers(place) == 1
    end(parent)
    gone(place)


def test_leaving_waits_until_the_server_is_down(place: Path) -> None:
    process = user(place, "embedded.leave(home); print('left', flush=True)\n" + UNTIL_TOLD)
    assert process.stdout is not None
    assert process.stdout.readline() == "left\n"
    assert servers(place) == 0
    end(process)


def test_leaving_leaves_others_alone(place: Path) -> None:
    other = user(place, UNTIL_TOLD)
    end(user(place, "embedded.leave(home)\n"))
    assert servers(place) == 1
    end(other)
    gone(place)


def test_the_data_outlives_the_server(place: Path) -> None:
    end(user(place, UNTIL_TOLD))
    gone(place)
    inode = (place / "data" / "PG_VERSION").stat().st_ino
    end(user(place, UNTIL_TOLD))
    assert (place / "data" / "PG_VERSION").stat().st_ino == inode
    gone(place)


@pytest.mark.parametrize("name", ["x" * 120, "a b, c"])
def test_a_path_no_socket_can_have(place: Path, name: str) -> None:
    process = user(place / name, UNTIL_TOLD)
    end(process)
    gone(place)
    assert not embedded._Server(place / name).sockets.exists()


def test_a_server_that_cannot_start_says_why(place: Path) -> None:
    (place / "data").mkdir()
    with pytest.raises(embedded.EmbeddedServerError, match="did not start"):
        embedded.url(place)
    gone(place)


def test_a_folder_that_cannot_be_made_says_what_to_do(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(embedded.EmbeddedServerError, match="set DATABASE_URL"):
        embedded.url(place / "file" / "home")


def test_without_the_wheel_says_what_to_do(place: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-c", "from testproject import embedded; embedded._programs()"],
        cwd=Path(embedded.__file__).parents[1],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "pip install -e '.[demo]'" in run.stderr


def test_a_restarted_server_goes_on_with_its_data_and_its_users(place: Path) -> None:
    other = user(place, UNTIL_TOLD)
    pid = (place / "data" / "postmaster.pid").read_text().splitlines()[0]
    ask = (
        "print(embedded.restart(home), embedded.restart(home / 'other'), flush=True)\n"
        "folder = url.split('@/')[1].rpartition('/')[0]\n"
        "psycopg.connect(host=folder, user='postgres', dbname='shop').close()\n"
        "print('asked', flush=True)\n"
    )
    process = user(place, ask + UNTIL_TOLD)
    assert process.stdout is not None
    assert process.stdout.readline() == "True False\n"
    assert process.stdout.readline() == "asked\n"
    assert (place / "data" / "postmaster.pid").read_text().splitlines()[0] != pid
    end(process)
    assert servers(place) == 1
    end(other)
    gone(place)


def test_the_server_goes_when_its_user_is_killed_as_a_restart_begins(place: Path) -> None:
    begin = "import threading; threading.Thread(target=embedded.restart, args=[home]).start()\n"
    process = user(place, begin + UNTIL_TOLD)
    wait_until(lambda: any(one.endswith(" restart") for one in alive(str(place))), "it begins")
    process.kill()
    process.communicate(timeout=30)
    gone(place)
