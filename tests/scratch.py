"""One folder for everything this test process leaves on disk or running.

A cleanup in Python does not run when the test run is killed. So a shell waits on a pipe whose
other end only this process holds: however this process ends, the shell sees the end of file,
stops the PostgreSQL servers under the folder and deletes it.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import tempfile
from pathlib import Path

JANITOR = """
trap '' HUP INT TERM
read -r _
for pidfile in "$1"/*/data/postmaster.pid; do
    [ -f "$pidfile" ] && kill -QUIT "$(head -n 1 "$pidfile")"
done
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""

# A Unix socket's path may be 103 bytes long on macOS; below the folder come about 30.
LONGEST = 70


def make_room_for_sockets() -> None:
    """See that this process's children, too, can make a Unix socket in their TMPDIR."""
    if _base() != tempfile.gettempdir():
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder())


def _base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) + len("/connpool-12345678") <= LONGEST else "/tmp"


@functools.cache
def folder() -> Path:
    """Return this process's folder, made at the first call and gone when the process is."""
    base = _base()
    path = Path(tempfile.mkdtemp(prefix="connpool-", dir=base))
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root; the user it runs as has to get through.
        path.chmod(0o711)
    janitor = subprocess.Popen(
        ["sh", "-c", JANITOR, "janitor", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_dismiss, janitor, os.getpid())
    return path


def _dismiss(janitor: subprocess.Popen[bytes], owner: int) -> None:
    # A forked child runs its parent's exit handlers too, and has nothing to dismiss.
    if os.getpid() == owner:
        janitor.communicate()
