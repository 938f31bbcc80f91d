"""Without the middleware: Django's signals tell when a request begins and ends.

Nothing is given back here; Django's own receivers do that. Here is only noted which request is
running, to end an atomic block that it has left open. With the middleware there are no receivers,
for each costs several microseconds a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.signals import request_finished, request_started, setting_changed

from . import holders, scopes

_BEGIN, _END = "django_connpool.begin", "django_connpool.end"


def connect() -> None:
    """Called when there is a wrapper that it is for."""
    request_started.connect(_begin, dispatch_uid=_BEGIN)
    request_finished.connect(_end, dispatch_uid=_END)
    setting_changed.connect(_connect_again, dispatch_uid="django_connpool.again")


def disconnect() -> None:
    """Called when the middleware is installed, which knows each request itself."""
    request_started.disconnect(dispatch_uid=_BEGIN)
    request_finished.disconnect(dispatch_uid=_END)


def _connect_again(setting: str, **kwargs: Any) -> None:
    """In tests that change the setting, the next handler may be without the middleware."""
    if setting == "MIDDLEWARE":
        connect()


def _begin(
    environ: Mapping[str, Any] | None = None, scope: Mapping[str, Any] | None = None, **kwargs: Any
) -> None:
    if environ is not None:
        name = f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')}"
    elif scope is not None:
        name = f"{scope.get('method')} {scope.get('path')}"
    else:
        name = "a request"
    scopes.request.life = scopes.Life(name)


def _end(**kwargs: Any) -> None:
    life, scopes.request.life = scopes.request.life, None
    if life is None:
        return
    life.ended = True
    if life.has_blocks:
        for wrapper in holders.here():
            wrapper.end_blocks_of(life)
