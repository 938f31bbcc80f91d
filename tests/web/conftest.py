from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from tests.databases import Databases
from tests.status.conftest import status_dir  # noqa: F401
from tests.web import urls

TOKEN = "a token that is long enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def mounted(settings: Any) -> None:
    """The page is mounted, and there is a token."""
    settings.ROOT_URLCONF = "tests.web.urls"
    settings.CONNPOOL_TOKEN = TOKEN


@pytest.fixture
def spare(databases: Databases) -> Iterator[Any]:
    """A database whose pool has two places."""
    yield databases.add(pool={"max_size": 2, "timeout": 30})
    urls.leaked.clear()


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that gets a path with the token, as a WSGI and as an ASGI server would."""
    if request.param == "sync":
        return lambda path: Client().get(path, headers=BEARER)
    return async_to_sync(_get)


async def _get(path: str) -> Any:
    return await AsyncClient().get(path, headers=BEARER)


class Hands:
    """What acts on pools, but only remembers what it was asked for."""

    def __init__(self) -> None:
        self.performed: list[dict[str, Any]] = []
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"ok": True, "text": "It is <done>."}

    def send(self, pid: int, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        if pid == os.getpid():
            self.performed.append(command)
        else:
            self.sent.append((pid, command))
        return self.answer


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    stand_in = Hands()
    monkeypatch.setattr("django_connpool.status.hands.send", stand_in.send)
    return stand_in
