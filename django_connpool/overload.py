"""No connection in time is no error of the site's: such a request is answered 503, come again."""

from __future__ import annotations

from typing import TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import TemplateDoesNotExist, loader

from .errors import PoolTimeout, TooManyRequests
from .process import bursts
from .redaction import chain, one_line

logger = bursts.logger("overload")

Response = TypeVar("Response", bound=HttpResponseBase)

SETTING = "CONNPOOL_RETRY_AFTER"
RETRY_AFTER = 5  # seconds
STATUS = 503
TEMPLATE = "503.html"
TEXT = "The server is busy. Please try again in a moment."
PAGE = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Service Unavailable</title></head>
<body><h1>Service Unavailable</h1><p>{TEXT}</p></body>
</html>
"""


def retry_after() -> int | None:
    """For how many seconds clients are sent away; None: overload is an error like others."""
    seconds = getattr(settings, SETTING, RETRY_AFTER)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        raise ImproperlyConfigured(f"{SETTING} must be whole seconds, or None, not {seconds!r}.")
    return seconds


def met_in(error: BaseException | None) -> BaseException | None:
    """The pool's error of an overload: this one, or the one that Django has wrapped in it."""
    if isinstance(error, OperationalError):
        error = error.__cause__
    return error if isinstance(error, (PoolTimeout, TooManyRequests)) else None


def is_behind(error: BaseException | None) -> bool:
    """Whether an overload is what led to an error, which may be what others have made of it."""
    return any(met_in(link) for link in chain(error))


def refusal(request: HttpRequest, seconds: int) -> HttpResponse:
    """The answer to a request that got no connection.

    `503.html`, if the project has that template, or what the client has named as acceptable.
    """
    accepted = request.headers.get("accept", "")
    response: HttpResponse
    if "text/html" in accepted:
        response = HttpResponse(_page())
    elif "application/json" in accepted:
        response = JsonResponse({"detail": TEXT})
    else:
        response = HttpResponse(TEXT + "\n", content_type="text/plain; charset=utf-8")
    # Or Django would log each as an error, and mail it to the admins.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return made_one(response, seconds)


def made_one(response: Response, seconds: int) -> Response:
    """With our status and headers: also a page that others have made of the error."""
    response.status_code = STATUS
    response.headers["Retry-After"] = str(seconds)
    response.headers["Cache-Control"] = "no-store"
    return response


def _page() -> str:
    try:
        return loader.get_template(TEMPLATE).render()
    except TemplateDoesNotExist:
        return PAGE


def tell(request: HttpRequest, error: BaseException) -> None:
    """Log it: once for a burst, and then how many more there were."""
    numbers = dict(getattr(error, "numbers", {}))
    numbers.setdefault("pool", None)
    work = ascii(f"{request.method} {request.path}")[1:-1]
    logger.error(
        "%s: overload, %s is answered %d: %s",
        numbers["pool"],
        work,
        STATUS,
        one_line(error),
        extra={
            **numbers,
            "reason": "refused" if isinstance(error, TooManyRequests) else "timed out",
            "work": work,
            "status_code": STATUS,
            "burst": f"overload of {numbers['pool']}",
        },
    )
