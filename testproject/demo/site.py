"""The processes of the shop: gunicorn with the site, and manage.py."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from django.conf import settings

from . import interrupts
from .child import Child, ChildError

# Names the site's connections in pg_stat_activity: libpq reads it from the environment.
APPLICATION_NAME = "shop-demo"
START_SECONDS = 30
ANSWER_SECONDS = 2


@contextmanager
def serve(*, pool: bool, port: int, workers: int, threads: int) -> Iterator[int]:
    """Serve the shop while the block runs, on the loopback port that is given to it (0: any)."""
    # Open before gunicorn is, and handed to it: nobody can take the port in between.
    with _listen(port) as listener:
        descriptor = listener.fileno()
        port = listener.getsockname()[1]
        gunicorn = [
            *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}"),
            *("--workers", str(workers), "--threads", str(threads), "--log-level", "warning"),
        ]
        environment = {**_environment(pool), "PGAPPNAME": APPLICATION_NAME}
        site = Child(gunicorn, environment, pass_fds=[descriptor])
    with site:
        _wait_for(site, port)
        yield port


def manage(*arguments: str, pool: bool) -> str:
    """What ``manage.py`` prints when it is run with these arguments."""
    with Child([sys.executable, "manage.py", *arguments], _environment(pool)) as command:
        return command.result()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=256)
    except OSError as error:
        raise ChildError(f"Port {port} cannot be served on: {error}") from error


def _environment(pool: bool) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "demo.settings",
        "DEBUG": "off",
        "POOL": "on" if pool else "off",
        "SECRET_KEY": settings.SECRET_KEY,
    }


def _wait_for(site: Child, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while site.running() and time.monotonic() < deadline:
        if _answers(port):
            return
        interrupts.pause()
    raise ChildError(f"The site did not start:\n{site.output()}")


def _answers(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)) as client:
        try:
            client.request("GET", "/summary/")
            return client.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
