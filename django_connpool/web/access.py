"""Who may see the pools, and who may act on them.

To see: whoever brings `CONNPOOL_TOKEN` (`Authorization: Bearer ...`, or in a cookie that the page
sets for whoever typed it there), staff that has logged in, and with DEBUG everybody. To act: staff
that is a superuser or has the permission that `CONNPOOL_ACT_PERMISSION` names; a token is for
programs that look, and acts on nothing.

Who has logged in stands in the database. So a token is looked at first, and the database is not
asked where it would not answer: when its pool is exhausted or its server gone.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.db import DatabaseError, router
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from django_connpool import registry
from django_connpool.status import readiness
from django_connpool.status.snapshot import glance
from django_connpool.web.views import View, text

COOKIE = "connpool"
COOKIE_SECONDS = 8 * 3600
_SALT = "django_connpool.web.access"
# From when on nobody is looked up in the database: who asks why it is slow waits for nothing.
PATIENCE = readiness.Limits(busy_after=0.5, stuck_after=0.5)

CLOSED = (
    'Closed: log in as staff, or send the header "Authorization: Bearer TOKEN" with the token that '
    "CONNPOOL_TOKEN in the settings says."
)
WRONG = "Closed: the token that was sent is not the one that CONNPOOL_TOKEN in the settings says."
NONE = "Closed: a token was sent, but this process has no CONNPOOL_TOKEN in its settings."


def guarded(view: View) -> View:
    """A view for those who may see the pools; to others it says how to become one of them."""

    @wraps(view)
    def answer(request: HttpRequest) -> HttpResponse:
        return view(request) if may_see(request) else text([_why(request)], status=403)

    return answer


def _why(request: HttpRequest) -> str:
    """What keeps this request out, for whom reads it in a terminal."""
    if not request.headers.get("Authorization", "").lower().startswith("bearer "):
        return CLOSED
    return WRONG if token() else NONE


def may_see(request: HttpRequest) -> bool:
    return settings.DEBUG or has_token(request) or _staff(request) is not None


def may_act(request: HttpRequest) -> bool:
    user = _staff(request)
    if user is None:
        return False
    permission = getattr(settings, "CONNPOOL_ACT_PERMISSION", None)
    try:
        return bool(user.is_superuser or (permission and user.has_perm(permission)))
    except DatabaseError:
        return False


def token() -> str:
    """The token that opens; empty when there is none, and then none opens."""
    found = getattr(settings, "CONNPOOL_TOKEN", None)
    return found if isinstance(found, str) else ""


def is_token(said: str) -> bool:
    """Whether it is the token, found out in the same time whatever it is."""
    expected = token()
    return bool(expected) and constant_time_compare(said, expected)


def has_token(request: HttpRequest) -> bool:
    """Whether the request brings the token. Asks no database."""
    kind, _, said = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and is_token(said.strip()):
        return True
    if not token() or COOKIE not in request.COOKIES:
        return False
    try:
        found = request.get_signed_cookie(COOKIE, salt=_SALT, max_age=COOKIE_SECONDS)
    except (signing.BadSignature, KeyError):
        return False
    return constant_time_compare(found or "", _proof())


def remember_token(request: HttpRequest, response: HttpResponse, path: str) -> None:
    """Have the browser bring the token below that path; not the token itself, but a proof of it."""
    response.set_signed_cookie(
        COOKIE,
        _proof(),
        salt=_SALT,
        max_age=COOKIE_SECONDS,
        path=path,
        secure=request.is_secure(),
        httponly=True,
        samesite="Strict",
    )


def can_ask() -> bool:
    """Whether the database that knows the users answers without a wait. Asks the pools only."""
    if not apps.is_installed("django.contrib.auth"):
        return False
    alias = router.db_for_read(get_user_model())
    pools = [glance(names, pool) for names, pool in registry.live() if alias in names]
    return not readiness.troubles(pools, PATIENCE)


def looks_up_users(name: str) -> bool:
    """Whether it is the pool that is asked who somebody is."""
    if not apps.is_installed("django.contrib.auth"):
        return False
    alias = router.db_for_read(get_user_model())
    known = [(pool.name, *names) for names, pool in registry.live() if alias in names]
    return name == alias or any(name in names for names in known)


def _staff(request: HttpRequest) -> Any:
    """Who has logged in, if it is staff; None also when that cannot be found out now."""
    if not hasattr(request, "user") or not can_ask():
        return None
    try:
        user = request.user
        is_staff = user.is_active and getattr(user, "is_staff", False)
    except DatabaseError:
        return None
    return user if is_staff else None


def _proof() -> str:
    return salted_hmac(_SALT, token(), algorithm="sha256").hexdigest()
