"""The packages whose own tests are run, and how each of them runs its tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STOCK_ENGINE = "django.db.backends.postgresql"
OUR_ENGINE = "django_connpool.backends.postgresql"


@dataclass(frozen=True)
class Package:
    """One package, whose tests come with its sdist. Nothing of theirs is kept here."""

    name: str  # on PyPI
    group: str  # the packages of a group are installed together
    settings: str  # the module of their settings; "" where their conftest.py configures them
    tests: tuple[str, ...] = ()  # as their runner takes them
    runner: str = "django"  # or "pytest", or Django's own "runtests"
    folder: str = "."  # where it is started, in the sdist
    engine: str = OUR_ENGINE
    stock: str = STOCK_ENGINE
    aliases: tuple[str, ...] = ("default",)  # those of their databases that are PostgreSQL
    ours: dict[str, Any] = field(default_factory=dict)  # settings that only our run has
    both: dict[str, Any] = field(default_factory=dict)  # settings of both runs
    environment: dict[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()  # of the server: without them the package is left out


PACKAGES = (
    Package(
        "django-tenants",
        "engines",
        "dts_test_project.settings",
        ("django_tenants",),
        folder="dts_test_project",
        engine="django_tenants.postgresql_backend",
        stock="django_tenants.postgresql_backend",
        ours={"ORIGINAL_BACKEND": OUR_ENGINE},
    ),
    Package(
        "Django",  # its tests of geographic fields
        "gis",
        "test_sqlite",
        ("gis_tests",),
        runner="runtests",
        folder="tests",
        engine="django_connpool.backends.postgis",
        stock="django.contrib.gis.db.backends.postgis",
        aliases=("default", "other"),
        extensions=("postgis", "postgis_raster"),
    ),
    Package(
        "django-cachalot",
        "requests",
        "settings",
        ("cachalot.tests", "cachalot.admin_tests"),
        ours={"CACHALOT_ADDITIONAL_SUPPORTED_DATABASES": [OUR_ENGINE]},
        environment={"DB_ENGINE": "postgresql"},
        extensions=("hstore", "unaccent"),
    ),
    Package(
        "django-silk",
        "requests",
        "project.settings",
        ("tests",),
        folder="project",
        runner="pytest",
    ),
    Package(
        "django-debug-toolbar",
        "requests",
        "tests.settings",
        ("tests",),
        aliases=("default", "replica"),
        environment={"DB_BACKEND": "postgresql"},
    ),
    Package(
        "django-guardian",
        "requests",
        "guardian.testapp.testsettings",
        # That file measures how long things take.
        ("guardian/testapp/tests", "--ignore=guardian/testapp/tests/test_indexes.py"),
        runner="pytest",
        both={"PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"]},
    ),
    Package(
        "django-postgres-copy",
        "requests",
        "",
        ("tests",),
        runner="pytest",
        aliases=("default", "other", "secondary"),
    ),
    Package("django-celery-beat", "celery", "t.proj.settings", ("t/unit",), runner="pytest"),
    Package(
        "django-celery-results",
        "celery",
        "t.proj.settings",
        ("t/unit",),
        runner="pytest",
        aliases=("default", "secondary", "read-only"),
    ),
)
