"""Documents as a process sends them, to be changed in the one place a test is about."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def loan(**changes: Any) -> dict[str, Any]:
    return {
        "held": 4.2,
        "thread": "ThreadPoolExecutor-0_3",
        "thread_id": 140_000_000_000_001,
        "note": "GET /shop/orders/",
        "pinned": None,
        "taken_at": None,
        "at": None,
        "backend_pid": 4801,
        "transaction": "INTRANS",
        **changes,
    }


def histogram(**changes: Any) -> dict[str, Any]:
    buckets = {"0.001": 7, "0.1": 2, "+Inf": 1}
    return {"count": 10, "sum": 1.5, "buckets": buckets, **changes}


def pool(**changes: Any) -> dict[str, Any]:
    return {
        "alias": "default",
        "aliases": ["default"],
        "name": "shop",
        "min_size": 0,
        "max_size": 10,
        "size": 4,
        "idle": 1,
        "in_use": 2,
        "offered": 1,
        "opening": 0,
        "closing": 0,
        "waiting": 2,
        "longest_wait": 0.25,
        "closed": False,
        "suspended": False,
        "last_error": None,
        "stats": {
            "requests_num": 10231,
            "requests_queued": 40,
            "requests_wait_ms": 1500,
            "requests_errors": 5,
            "requests_timeouts": 4,
            "usage_ms": 92_000,
            "returns_bad": 1,
            "connections_num": 15,
            "connections_ms": 120,
            "connections_errors": 3,
            "connections_lost": 2,
        },
        "loans": [],
        "histograms": {key: histogram() for key in ("wait", "hold", "connect")},
        **changes,
    }


def process(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "pid": 4711,
        "host": "web-1",
        "command": "gunicorn shop.wsgi --workers 2",
        "settings": "shop.settings",
        "started": 1_700_000_000.0,
        "pools": [pool()],
        **changes,
    }


def obeying(path: Path, *answers: bytes | None) -> Any:
    """A process that is told a line by each of its clients before it answers."""
    return answering(path, *answers, listens=True)


@contextmanager
def answering(
    path: Path, *answers: bytes | dict[str, Any] | None, listens: bool = False
) -> Iterator[None]:
    """A process that listens at `path` and gives these answers; None: it never answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        held: list[socket.socket] = []

        def serve() -> None:
            for answer in answers:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                if answer is None:
                    held.append(client)
                    continue
                with client:
                    if listens:
                        client.recv(4096)
                    client.sendall(
                        answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            # Wakes the accept of a test that asked less often than it said.
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for client in held:
                client.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited 60 s in vain"
        time.sleep(0.01)
