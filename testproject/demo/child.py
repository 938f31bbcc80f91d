"""Processes that the demo starts, and that end with it, however it ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from . import interrupts

STOP_SECONDS = 5

# What a guard does when the demo has died without doing so itself, by SIGKILL say: then nobody else
# holds the other end of its pipe. A word on it says that there is nothing left to do.
GUARD = """
trap '' HUP INT TERM
read -r word && exit
"""
END_A_GROUP = 'kill -TERM "-$1" && sleep "$2" && kill -KILL "-$1"'
# When the processes have ended that have sockets in it.
REMOVE_A_FOLDER = 'sleep "$2"; rm -rf -- "$1"'
# A process begins when it is told so: by then it has a guard.
BEGIN = 'read -r word && exec "$@" < /dev/null'


class ChildError(RuntimeError):
    """A process of the demo failed; the message ends with what it said."""


class Child:
    """Context manager: a process in the project's folder, stopped when the block ends."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], pass_fds: Sequence[int] = ()
    ) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # In a session of its own: Ctrl-C reaches the demo alone, which ends its children in order.
        self._process = subprocess.Popen(
            ["sh", "-c", BEGIN, "begin", *command],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._guard = _guard(END_A_GROUP, self._process.pid, STOP_SECONDS)
        _tell(self._process)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _tell(self._guard)
        self._guard.wait()
        self._output.close()

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """What the process has written so far."""
        self._output.seek(0)
        return self._output.read()

    def result(self) -> str:
        """What the process wrote until it ended. Raises ChildError and Interrupted."""
        while self.running():
            interrupts.pause()
        if self._process.returncode:
            raise ChildError(self.output())
        return self.output()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of this user's alone, which is gone after the block."""
    path = Path(tempfile.gettempdir()) / f"connpool-demo-{secrets.token_hex(4)}"
    guard = _guard(REMOVE_A_FOLDER, path, STOP_SECONDS + 1)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)
        _tell(guard)
        guard.wait()


def _guard(what: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", GUARD + what, "guard", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _tell(process: subprocess.Popen[bytes]) -> None:
    """Say the word that it waits for."""
    if process.stdin:
        with process.stdin as pipe:
            pipe.write(b"done\n")
