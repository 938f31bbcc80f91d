"""The shop's settings for one contender, which DEMO_CONTENDER names: for the demo alone.

Nothing of this is for copying; `testproject/settings.py` is.
"""

# ruff: noqa: F403, F405
from __future__ import annotations

import os

from demo.contenders import DJANGO, OURS, sized
from django_connpool import conf
from testproject.settings import *

_contender = os.environ.get("DEMO_CONTENDER", OURS.key)

# So that `manage.py poolstatus` in the shop's own settings finds these processes, too.
CONNPOOL_PROJECT = f"{BASE_DIR}:testproject"
# A demo has not the time to wait for a minute.
CONNPOOL_STUCK_AFTER = 5

ROOT_URLCONF = "demo.urls"
# It is served on the loopback address, by HTTP.
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
SECURE_SSL_REDIRECT = False
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False

DATABASES["default"] = sized(DATABASES["default"])

if _contender != OURS.key:
    INSTALLED_APPS = [app for app in INSTALLED_APPS if not app.startswith("django_connpool")]
    MIDDLEWARE = [one for one in MIDDLEWARE if not one.startswith("django_connpool")]
    _database = DATABASES["default"]
    _options = conf.parse(_database) or conf.PoolOptions()
    DATABASES["default"] = {
        **_database,
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": conf.strip(_database["OPTIONS"]),
        "CONN_MAX_AGE": 0,
    }
    if _contender == DJANGO.key:
        # As many as ours may have, and as long a wait; four kept open is its default.
        DATABASES["default"]["OPTIONS"]["pool"] = {
            "min_size": min(4, _options.max_size),
            "max_size": _options.max_size,
            "timeout": _options.timeout,
        }
        DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
