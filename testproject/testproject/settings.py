"""
Settings of the shop. What differs from place to place comes from the environment, or from a file
`.env` beside manage.py: .env.example has every name, with what it means.

Without DEBUG it is a site in production: it wants SECRET_KEY, DATABASE_URL and ALLOWED_HOSTS, and
answers by HTTPS only.
"""

from __future__ import annotations

import os
from pathlib import Path

import environ

from testproject import embedded

# Also what poolstatus knows the processes of a project by.
BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")  # what is in the environment wins

DEBUG = env.bool("DEBUG", default=False)
# `manage.py check --deploy` warns of a key that begins with these words.
SECRET_KEY = env("SECRET_KEY", default="django-insecure-for-development" if DEBUG else env.NOTSET)
# Empty means the names of this machine with DEBUG, and none without.
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])

INSTALLED_APPS = [
    "django_connpool",  # the commands, and the pool's page in the admin
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "shop",
    "demo",  # not to be copied: `manage.py demo`
]

MIDDLEWARE = [
    # First, so that all that others do after the view is done before connections are given back.
    "django_connpool.middleware.ConnectionPoolMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# -- The database -------------------------------------------------------------------------

if DEBUG and not env("DATABASE_URL", default=""):
    # Not to be copied: this sample is to run where there is no PostgreSQL. Four connections of a
    # process are few enough to see the pool at work.
    os.environ["DATABASE_URL"] = f"{embedded.url()}?pool_max_size=4"

# The pool's options stand in the URL, ?pool_max_size=20, so that each kind of process can have its
# own. No CONN_MAX_AGE and no CONN_HEALTH_CHECKS: the pool sees to both.
DATABASES = {"default": env.db("DATABASE_URL", engine="django_connpool.backends.postgresql")}

# Opens the page to who has it, also while nobody can log in because the database is gone.
CONNPOOL_TOKEN = env("CONNPOOL_TOKEN", default=None)
# Where the processes of this host can be asked; unset: a place of this user.
CONNPOOL_STATUS_DIR = env("CONNPOOL_STATUS_DIR", default=None)

# -- HTTPS --------------------------------------------------------------------------------

# Whether a request came by HTTPS, gunicorn and uvicorn know from the proxy before them, where
# FORWARDED_ALLOW_IPS has its address. (So there is no SECURE_PROXY_SSL_HEADER here.)
HTTPS = env.bool("HTTPS", default=not DEBUG)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
# Browsers keep to it for so long. An hour can be taken back; a year is for when all is well.
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", default=3600) if HTTPS else 0
# A probe and a load balancer ask the process itself, without TLS.
SECURE_REDIRECT_EXEMPT = [r"^pool/(live|ready)$"]

# -- Celery, which reads what begins with CELERY_ ------------------------------------------

# Without a broker a task runs at once, in the process that calls it.
BROKER = env("CELERY_BROKER_URL", default="")
CELERY_BROKER_URL = BROKER or "memory://localhost"
CELERY_BROKER_TRANSPORT_OPTIONS = env.json("CELERY_BROKER_TRANSPORT_OPTIONS", default={})
CELERY_TASK_ALWAYS_EAGER = not BROKER
CELERY_TASK_EAGER_PROPAGATES = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False  # LOGGING holds for workers, too

# -- Logs ---------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"format": "{asctime} {process} {levelname} {name}: {message}", "style": "{"},
        "json": {"()": "testproject.logs.Json"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": env.str("LOG_FORMAT", default="text"),
        },
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        # In place of Django's own handlers, which show errors with DEBUG only.
        "django": {"level": "INFO"},
        # Outages, leaks, requests that got no connection. At INFO also what is no trouble.
        "django_connpool": {"level": env.str("POOL_LOG_LEVEL", default="INFO")},
        # One concern can be set apart, docs/logs.md has them all:
        # "django_connpool.pool.loans": {"level": "ERROR"},
    },
}

# -- As any project has it ----------------------------------------------------------------

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

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static"  # collectstatic puts files there, for the web server to serve
