"""A process of `bench.budget`: it imports little, as there are many of them."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from typing import Any

import django
from django.conf import settings

OURS = "django_connpool.backends.postgresql"
WORKERS = 8
THREADS = 4
BUSY = 3  # processes at a time
MOVES = 0.7  # seconds after which others are busy
REST = 0.1  # seconds between two jobs of a thread that is not busy
QUERIES = 3


def is_busy(number: int, at: float) -> bool:
    """Whether this process is one of the busy ones at that moment; the same for all subjects."""
    first = int(at / MOVES) * BUSY
    return (number - first) % WORKERS < BUSY


def serve_rounds(entry: dict[str, Any], number: int, folder: str) -> None:
    """Read rounds from standard input, write what they came to."""
    settings.configure(
        DATABASES={"default": entry}, USE_TZ=True, INSTALLED_APPS=[], CONNPOOL_HOST_DIR=folder
    )
    django.setup()
    from django.db import close_old_connections, connection, transaction

    from django_connpool import scope

    pooled = entry["ENGINE"] == OURS

    def job() -> None:
        close_old_connections()
        named = scope("job") if pooled else nullcontext()
        with named, transaction.atomic(), connection.cursor() as cursor:
            for _ in range(QUERIES):
                cursor.execute("SELECT sum(n) FROM generate_series(1, 300) n")
                cursor.fetchone()
        close_old_connections()

    gate = threading.Barrier(THREADS + 1)
    asked: dict[str, float] = {}
    found: list[float] = []
    errors: list[str] = []

    def serve() -> None:
        while True:
            gate.wait()
            began, mine = time.monotonic(), []
            while (now := time.monotonic() - began) < asked["seconds"]:
                try:
                    job()
                except Exception as error:
                    errors.append(str(error))
                mine.append(time.monotonic() - began - now)
                if not is_busy(number, now):
                    time.sleep(REST)
            found.extend(mine)
            gate.wait()

    for _ in range(THREADS):
        threading.Thread(target=serve, daemon=True).start()
    for line in sys.stdin:
        asked.update(json.loads(line))
        found.clear()
        gate.wait()
        gate.wait()
        print(json.dumps({"latencies": found, "errors": errors[:3]}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    serve_rounds(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
