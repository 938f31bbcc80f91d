"""What the wrapper of an ASGI application does when its server starts and ends."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

from django_connpool.contrib import asgi
from tests.cluster import Server
from tests.databases import Databases, connected
from tests.testproject.processes import wait_until


async def lives(application: asgi.Application, meanwhile: Any) -> list[str]:
    """What it answers to a server that starts, waits for `meanwhile`, and ends."""
    answers: list[str] = []
    todo = ["lifespan.startup", "lifespan.shutdown"]

    async def receive() -> dict[str, str]:
        if len(todo) == 1:
            await asyncio.to_thread(meanwhile)
        return {"type": todo.pop(0)}

    async def send(message: dict[str, str]) -> None:
        answers.append(message["type"])

    await application({"type": "lifespan"}, receive, send)
    return answers


def test_the_minimum_is_open_before_the_first_request(
    databases: Databases, cluster: Server
) -> None:
    spare = databases.add(pool={"min_size": 2})

    def is_warm() -> None:
        wait_until(lambda: connected(cluster, spare) == 2, "min_size connections are open")

    # The process goes on, with the pools of other tests.
    with mock.patch.object(asgi.ending, "leave") as leave:
        answers = asyncio.run(lives(asgi.saying_goodbye(mock.Mock()), is_warm))

    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert leave.called
