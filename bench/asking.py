"""How Django's two handlers are asked for a page, as a server asks them."""

from __future__ import annotations

import asyncio
from typing import Any
from wsgiref.util import setup_testing_defaults


def ask(wsgi: Any, path: str) -> bool:
    """Whether the page was served, read to its end and closed."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    told: list[str] = []
    response = wsgi(environ, lambda status, headers: told.append(status))
    try:
        b"".join(response)
    finally:
        response.close()
    return told[0].startswith("200")


async def ask_async(asgi: Any, path: str) -> bool:
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    # What comes after the request's body would be that the client has gone: it never does.
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asgi(scope, received.get, send)
    return bool(sent[0]["status"] == 200)
