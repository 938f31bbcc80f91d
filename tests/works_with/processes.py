"""Programs of this package, each a process of its own, and the site that they set up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Server

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 200
ENGINES = {
    "engine": "django_connpool.backends.postgresql",
    "mixin": "tests.works_with.pooled",
}
MODES = ("auto", "request", "transaction")


def run(program: str, *arguments: str, package: str, url: str) -> Any:
    """What a program says in its last line; fail the test when it says no or hangs.

    Skip the test when the other people's package is not there.
    """
    if not is_here(package):
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-m", f"tests.works_with.{program}", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def tell(what: object) -> None:
    """Say it to `run`, and end at once: other people's threads are no concern of ours."""
    print(json.dumps(what), flush=True)
    os._exit(0)


def database(engine: str, pool: Any = None, name: str = "", **changes: Any) -> dict[str, Any]:
    """An entry of DATABASES for the server of DATABASE_URL."""
    server = Server.from_url(os.environ["DATABASE_URL"])
    place = server.django()
    options = {**place.pop("OPTIONS"), **({} if pool is None else {"pool": pool})}
    name = name or str(server.params()["dbname"])
    return {**place, "ENGINE": engine, "NAME": name, "OPTIONS": options, **changes}


def elastic(keep: Callable[[Any], object]) -> Any:
    """Switch on an Elastic agent that sends nothing; return its client. `keep` gets each span."""
    import elasticapm

    client = elasticapm.Client(
        service_name="tests",
        disable_send=True,
        metrics_interval="0ms",
        central_config=False,
        cloud_provider=False,
        span_compression_enabled=False,
    )
    queue = client.tracer.queue_func

    def queued(kind: str, event: Any, **kwargs: Any) -> None:
        if kind == "span":
            keep(event)
        queue(kind, event, **kwargs)

    client.tracer.queue_func = queued
    elasticapm.instrument()
    return client
