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
from .contenders import OURS, Contender

# Names the site's connections in pg_stat_activity: libpq reads it from the environment.
APPLICATION_NAME = "shop-demo"
START_SECONDS = 60
ANSWER_SECONDS = 2


def listen(port: int) -> socket.socket:
    """A socket on the loopback address for all that serve, one after the other (port 0: any)."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=256)
    except OSError as error:
        raise ChildError(f"Port {port} cannot be served on: {error}") from error


@contextmanager
def serve(
    listener: socket.socket, *, workers: int, threads: int, contender: Contender = OURS
) -> Iterator[int]:
    """Serve the shop while the block runs; it is given the port."""
    # The socket is open before gunicorn is: nobody can take the port in between.
    descriptor, port = listener.fileno(), listener.getsockname()[1]
    gunicorn = [
        *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}"),
        *("--workers", str(workers), "--threads", str(threads), "--log-level", "warning"),
    ]
    environment = {**_environment(contender), "PGAPPNAME": APPLICATION_NAME}
    with Child(gunicorn, environment, pass_fds=[descriptor]) as site:
        _wait_for(site, port)
        yield port


def manage(*arguments: str, contender: Contender = OURS) -> str:
    """What ``manage.py`` prints when it is run with these arguments."""
    with Child([sys.executable, "manage.py", *arguments], _environment(contender)) as command:
        return command.result()


def _environment(contender: Contender) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "demo.settings",
        "DEMO_CONTENDER": contender.key,
        "DEBUG": "off",
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
