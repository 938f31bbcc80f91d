from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from tests.databases import Databases
from tests.status.conftest import status_dir  # noqa: F401
from tests.web import urls

TOKEN = "a token that is long enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HANDS = "django_connpool.status.hands"


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


class Hands(ModuleType):
    """A stand-in for the module that acts on pools: it remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(HANDS)
        self.performed: list[dict[str, Any]] = []
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"ok": True, "text": "It is <done>."}
        self.error: Exception | None = None

    def perform(self, command: dict[str, Any]) -> dict[str, Any]:
        self.performed.append(command)
        return self._say()

    def send(self, pid: int, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.sent.append((pid, command))
        return self._say()

    def _say(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    stand_in = Hands()
    monkeypatch.setitem(sys.modules, HANDS, stand_in)
    return stand_in


@pytest.fixture
def no_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HANDS, None)
