"""What all of our views have in common: they are no work of the site's, and nobody keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_http_methods

View = Callable[[HttpRequest], HttpResponse]


class _EveryAlias(set[str]):
    """All aliases, those included that are added later."""

    def __contains__(self, alias: object) -> bool:
        return True


def quiet(*methods: str) -> Callable[[View], View]:
    """A view that begins no transaction, whatever ATOMIC_REQUESTS says, and that no cache keeps.

    Who may see it is its own affair, not that of Django's LoginRequiredMiddleware. Its 503 is an
    answer, and nothing that Django should log (and mail to the admins) each time a probe asks.
    """

    def decorated(view: View) -> View:
        @wraps(view)
        def answer(request: HttpRequest) -> HttpResponse:
            response: Any = view(request)
            add_never_cache_headers(response)
            if response.status_code == 503:
                response._has_been_logged = True
            return response  # type: ignore[no-any-return]

        answering = require_http_methods(methods or ["GET", "HEAD"])(answer)
        return open_to_all(answering)  # type: ignore[no-any-return]

    return decorated


def open_to_all(view: Any) -> Any:
    """Have Django's LoginRequiredMiddleware and ATOMIC_REQUESTS leave it alone."""
    # As Django's own decorators do. That for transactions wants each alias named.
    view.login_required = False
    view._non_atomic_requests = _EveryAlias()
    return view


def text(lines: Iterable[object], status: int = 200) -> HttpResponse:
    """Lines of plain text."""
    body = "".join(f"{line}\n" for line in lines)
    return HttpResponse(body, status=status, content_type="text/plain; charset=utf-8")
