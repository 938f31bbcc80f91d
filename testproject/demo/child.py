from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from django.conf import settings

from . import interrupts

STOP_SECONDS = 5

# Ends a process group when the demo has died without doing so, by SIGKILL say: then nobody else
# holds the other end of the pipe. The word says that there is nothing left to do.
GUARD = """
trap '' HUP INT TERM
read -r word && exit
kill -TERM "-$1" && sleep "$2" && kill -KILL "-$1"
"""


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
            command,
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", str(self._process.pid), str(STOP_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._guard.communicate(b"done\n")
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
