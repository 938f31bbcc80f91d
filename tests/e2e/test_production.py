"""The sample shop as in production: what it shows to whom, what it logs; and its own tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e import processes
from tests.e2e.processes import TESTPROJECT, Served
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

Environ = Callable[..., dict[str, str]]
TOKEN = "only for tests, long enough"
SETTINGS = {
    **{"DEBUG": "off", "SECRET_KEY": "only for tests", "ALLOWED_HOSTS": "127.0.0.1"},
    **{"CONNPOOL_TOKEN": TOKEN, "LOG_FORMAT": "json"},
}


def command(server: str, port: int) -> list[str]:
    if server == "gunicorn":
        return ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    return ["-m", "uvicorn", "testproject.asgi:application", "--port", str(port)]


@contextmanager
def site(server: str, environ: dict[str, str]) -> Iterator[tuple[Served, httpx.Client]]:
    """The site, and a client that a proxy with TLS seems to stand before."""
    port = processes.free_port()
    forwarded = {"X-Forwarded-Proto": "https"}
    with (
        processes.serving(TESTPROJECT, port, *command(server, port), **environ) as served,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=forwarded, timeout=processes.SECONDS
        ) as client,
    ):
        yield served, client


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_site_in_production_is_open_to_its_visitors_only(
    shop_environ: Environ, server: str
) -> None:
    with site(server, {**shop_environ(), **SETTINGS}) as (_, client):
        plain = {"X-Forwarded-Proto": "http"}
        for path in ("/", "/pool/", "/admin/"):
            assert client.get(path, headers=plain).status_code == 301
        for path in ("/pool/live", "/pool/ready"):
            assert client.get(path, headers=plain).status_code == 200

        front = client.get("/")
        assert front.status_code == 200
        assert front.headers["Strict-Transport-Security"] == "max-age=3600"
        assert "Secure" in client.get("/admin/login/").headers["Set-Cookie"]
        assert client.get("/scarce/").status_code == 200
        slug = client.get("/api/products/").json()["products"][0]["slug"]
        order = {"customer": "a@example.com", "products": {slug: 1}}
        assert client.post("/api/orders/", json=order).status_code == 201

        assert client.get("/", headers={"Host": "evil.example.com"}).status_code == 400
        token = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/pool/", "/pool/status.json", "/pool/metrics"):
            assert client.get(path).status_code == 403, path
            assert client.get(path, headers=token).status_code == 200, path


def test_an_outage_shows_in_readiness_and_in_the_log(shop_environ: Environ) -> None:
    nowhere = f"postgres://nobody@127.0.0.1:{processes.free_port()}/shop"
    environ = {**shop_environ(), **SETTINGS, "DATABASE_URL": f"{nowhere}?pool_outage_patience=0"}
    with site("gunicorn", environ) as (served, client):
        assert client.get("/pool/ready").status_code == 200  # nobody has tried
        assert client.get("/").status_code >= 500
        wait_until(lambda: client.get("/pool/ready").status_code == 503, "it is not ready")
        assert client.get("/pool/live").status_code == 200
        lines = [json.loads(line) for line in served.log().splitlines() if line.startswith("{")]
        (failed, *_) = [one for one in lines if one["logger"].endswith(".connecting")]
        assert failed["pool"] == "default"
        assert "connecting failed" in failed["message"]
        assert "django.request" in {one["logger"] for one in lines}


def test_the_tests_of_the_site_pass(shop_environ: Environ) -> None:
    done = processes.run(TESTPROJECT, "manage.py", "test", "--no-input", **shop_environ())
    assert "Ran 3 tests" in done.stderr
    assert "OK" in done.stderr
