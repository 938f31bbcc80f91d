"""Django's settings for the tests.

Where the server is, `conftest.py` fills in when the first test asks for a database: reading the
settings, as mypy does, starts none. A process of its own gets DATABASE_URL.
"""

from __future__ import annotations

import os
from typing import Any

from tests.cluster import Server

# What libpq repeats to the reader should a connection be tried before there is a server.
NOWHERE = {"HOST": "/there-is-no-server-yet/ask-for-the-fixture-db-or-cluster"}


URL = os.environ.get("DATABASE_URL")


def database(suffix: str, options: dict[str, Any]) -> dict[str, Any]:
    server = Server.from_url(URL) if URL else None
    place: dict[str, Any] = server.django() if server else {**NOWHERE, "OPTIONS": {}}
    name = server.params()["dbname"] if server else "connpool"
    return {
        **place,
        "ENGINE": "django_connpool.backends.postgresql",
        "NAME": name + suffix,
        "OPTIONS": {**place["OPTIONS"], **options},
    }


DATABASES = {
    "default": database("", {}),
    "other": database("_other", {"pool": {"max_size": 3}}),
}

INSTALLED_APPS = [
    "django_connpool",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "shop",
]

MIDDLEWARE = [
    "django_connpool.middleware.ConnectionPoolMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "tests.urls"
SECRET_KEY = "only for tests"
STATIC_URL = "static/"
USE_TZ = True
