"""Processes of their own, for what only a second process can show.

`python -m tests.status.script NAME` with CONNPOOL_STATUS_DIR (and DATABASE_URL) set. Each says
"ready" or a line of JSON, and goes on when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(name: str, status_dir: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The script `name` as a process, which has said its first line: `process.said`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.status.script", name],
        cwd=ROOT,
        env={**os.environ, "CONNPOOL_STATUS_DIR": str(status_dir), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            process.said = process.stdout.readline().strip()  # type: ignore[attr-defined]
            yield process
        finally:
            process.kill()


def _say(what: object) -> None:
    print(what, flush=True)


def _wait() -> None:
    sys.stdin.read()


def serve() -> None:
    """Answers, and exits in order."""
    _server().start()
    _say("ready")
    _wait()


def serve_then_crash() -> None:
    """Answers, and ends without a chance to clean up."""
    serve()
    os._exit(0)


def fork_while_serving() -> None:
    """Answers, forks a child that says what it knows and answers too."""
    server = _server()
    server.start()
    from tests import inside

    inherited = inside.socket_of(inside.listener())
    parent_read, child_write = os.pipe()
    stop_child, parent_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(parent_write)
            found = {"forgot": inside.listener() is None and inherited.fileno() == -1}
            server.start()
            os.write(child_write, json.dumps({**found, "child": os.getpid()}).encode())
            os.read(stop_child, 1)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(child_write)
    _say(json.dumps({**json.loads(os.read(parent_read, 4096)), "parent": os.getpid()}))
    _wait()
    os.close(parent_write)
    os.waitpid(child, 0)


def start_in_a_folder_that_is_read_only() -> None:
    """Says what it logs when it cannot make its sockets, as a user whom modes bind."""
    import logging

    from tests import inside  # as long as the sources can be read

    server = _server()
    place = Path(os.environ["CONNPOOL_STATUS_DIR"])
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("django_connpool.status").addHandler(handler)
    if os.getuid() == 0:
        # The way to it, and itself.
        place.parent.chmod(0o755)
        os.chown(place, 65534, -1)
        os.setuid(65534)
    place.chmod(0o500)
    server.directory.was_said = lambda text: False
    server.start()
    server.start()
    _say(json.dumps({"answers": inside.listener() is not None, "warnings": warnings}))


def borrow() -> None:
    """A site's process: borrows by a query and keeps the loan in a transaction."""
    _server()
    import django

    django.setup()
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        _say(json.dumps({"backend": cursor.fetchone()[0]}))
        _wait()


def _server() -> Any:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from django.conf import settings

    settings.CONNPOOL_STATUS_DIR = os.environ["CONNPOOL_STATUS_DIR"]
    from django_connpool.status import server

    return server


SCRIPTS: dict[str, Callable[[], None]] = {
    script.__name__: script
    for script in (
        serve,
        serve_then_crash,
        fork_while_serving,
        start_in_a_folder_that_is_read_only,
        borrow,
    )
}

if __name__ == "__main__":
    SCRIPTS[sys.argv[1]]()
