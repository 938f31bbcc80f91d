"""The page and the probes of the sample shop, behind real servers."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.processes import TESTPROJECT, free_port, serving
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

Environ = Callable[..., dict[str, str]]


def test_the_page_shows_every_worker_of_the_host(shop_environ: Environ) -> None:
    port = free_port()
    server = ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    with serving(TESTPROJECT, port, *server, **shop_environ()) as served:

        def pids() -> set[int]:
            served.get("/")  # whoever answers has a pool from then on
            told = json.loads(served.get("/pool/status.json?scope=host"))
            return {process["pid"] for process in told["processes"] if process["pools"]}

        wait_until(lambda: len(pids()) == 2, "both workers have a pool")
        # Each knows itself at once, and the other when that has made its socket.
        pages: list[str] = []

        def tells_of_both() -> bool:
            pages.append(served.get("/pool/"))
            return "All is well: 2 pools in 2 processes." in pages[-1]

        wait_until(tells_of_both, "both workers are asked")
        page = pages[-1]
        for pid in pids():
            assert f"pid {pid} " in page
        assert "SELECT" not in page  # nobody has anything


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_probes_answer_behind_a_server(shop_environ: Environ, server: str) -> None:
    port = free_port()
    commands = {
        "gunicorn": ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1"],
        "uvicorn": ["-m", "uvicorn", "testproject.asgi:application", "--port", str(port)],
    }
    with serving(TESTPROJECT, port, *commands[server], **shop_environ()) as served:
        assert served.get("/pool/live") == "alive\n"
        assert served.get("/pool/ready") == "ready\n"
        served.get("/")
        (process,) = json.loads(served.get("/pool/status.json"))["processes"]
        assert [pool["alias"] for pool in process["pools"]] == ["default"]
