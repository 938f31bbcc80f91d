"""The shop's settings for what the demo starts. Nothing of this is for copying.

POOL: "off" uses Django's own backend and a new connection for each request, to compare with.
"""

from __future__ import annotations

from testproject.settings import *  # noqa: F403
from testproject.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE, env

# It is served on the loopback address, by HTTP.
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False

if not env.bool("POOL", default=True):
    default = DATABASES["default"]
    default["ENGINE"] = "django.db.backends.postgresql"
    options = default.get("OPTIONS", {})
    default["OPTIONS"] = {k: v for k, v in options.items() if not k.startswith("pool")}
    default["CONN_MAX_AGE"] = 0
    INSTALLED_APPS.remove("django_connpool")
    MIDDLEWARE.remove("django_connpool.middleware.ConnectionPoolMiddleware")
