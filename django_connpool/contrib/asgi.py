"""For ASGI servers that end themselves by a signal, as uvicorn does after SIGTERM.

Such a process runs no exit handlers, so its connections would end without a goodbye: the server
then logs "unexpected EOF on client connection" at level DEBUG1. In asgi.py:

    application = saying_goodbye(get_asgi_application())
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django_connpool.borrowing import warm
from django_connpool.process import ending

Application = Callable[[Any, Any, Any], Awaitable[None]]


def saying_goodbye(application: Application) -> Application:
    """The application, which closes idle connections when the server shuts down.

    When it starts up, `min_size` connections of each pool are opened, in the background.
    It answers the server's `lifespan` itself: Django has no use for it.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                warm()
            elif message["type"] == "lifespan.shutdown":
                ending.leave()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    return wrapped
