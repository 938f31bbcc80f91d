"""
Settings of the sample shop, all of them from the environment.

DATABASE_URL: like postgres://user:password@host:5432/name, with pool options if need be:
    ?pool_max_size=20&pool_timeout=5. Unset: an embedded PostgreSQL, started when these settings are
    read and stopped with the last process that has read them.
POOL: "off" uses Django's own backend and a new connection for each request, to compare with.
POOL_SIZE: the most connections of one process, for a URL without options; default 4.
CONNPOOL_STATUS_DIR: where poolstatus finds the processes; unset: a place of this user.
CONNPOOL_TOKEN: opens the page at /pool/ also without DEBUG, and while the pool is exhausted.
DEBUG: on by default, for this is a sample and no deployment.
SECRET_KEY: needed when DEBUG is off.
"""

from __future__ import annotations

from pathlib import Path

import environ

from testproject import embedded

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()

DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env("SECRET_KEY", default="sample" if DEBUG else environ.Env.NOTSET)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

INSTALLED_APPS = [
    "django_connpool",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "shop",
    "demo",
]

MIDDLEWARE = [
    "django_connpool.middleware.ConnectionPoolMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

DATABASE_URL = env("DATABASE_URL", default="") or embedded.url()
DATABASES = {
    "default": {
        "OPTIONS": {"pool": {"max_size": env.int("POOL_SIZE", default=4)}},
        **env.db_url_config(DATABASE_URL),
        "ENGINE": "django_connpool.backends.postgresql",
    }
}

if not env.bool("POOL", default=True):
    default = DATABASES["default"]
    default["ENGINE"] = "django.db.backends.postgresql"
    default["OPTIONS"] = {k: v for k, v in default["OPTIONS"].items() if not k.startswith("pool")}
    default["CONN_MAX_AGE"] = 0
    INSTALLED_APPS.remove("django_connpool")
    MIDDLEWARE.remove("django_connpool.middleware.ConnectionPoolMiddleware")

CONNPOOL_STATUS_DIR = env("CONNPOOL_STATUS_DIR", default=None)
CONNPOOL_TOKEN = env("CONNPOOL_TOKEN", default=None)

ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
ASGI_APPLICATION = "testproject.asgi.application"

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

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
