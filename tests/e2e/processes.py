"""Commands and servers as processes of their own, and how to ask them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.testproject.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
TESTPROJECT = ROOT / "testproject"
SECONDS = 60


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the arguments in a folder; fail the test when it says no or hangs."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=own_environ(environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def serving(folder: Path, port: int, *arguments: str, **environ: str) -> Iterator[Served]:
    """A server process on a port, which takes connections; killed at the end if it still runs."""
    with running(folder, *arguments, **environ) as served:
        served.port = port
        wait_until(served.listens, f"{arguments} serves", SECONDS)
        yield served


@contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[Served]:
    """A process that goes on; killed at the end, with its children, if it still runs."""
    # Of its own: two tests may run servers in the same folder at a time.
    handle, name = tempfile.mkstemp(prefix="log-")
    log = Path(name)
    with open(handle, "w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=own_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Served(process, 0, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
        log.unlink()


class Served:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def get(self, path: str) -> str:
        """The body of the page; fails the test, with the server's log, when it is an error."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS) as answer:
                return str(answer.read().decode())
        except URLError as error:
            raise AssertionError(f"{path}: {error}\n{self.log()}") from error

    def listens(self) -> bool:
        assert self.process.poll() is None, self.log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self.process.terminate()
        self.process.wait(SECONDS)

    def log(self) -> str:
        return self._log.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_environ(changes: dict[str, str]) -> dict[str, str]:
    kept = {key: item for key, item in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    paths = [str(ROOT), str(TESTPROJECT), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}
