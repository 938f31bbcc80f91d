"""A site with django-tenants: `python -m tests.works_with.tenants WAY MODE [LIMIT_SET_CALLS]`.

Threads handle requests, each of another tenant than the one before.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from tests.cluster import Server
from tests.works_with.processes import database, tell

ENGINES = {
    "engine": "django_tenants.postgresql_backend",
    "mixin": "tests.works_with.tenants_pooled",
}
THREADS, REQUESTS, TENANTS = 8, 20, 5


def main(way: str, mode: str, limit: str = "") -> None:
    import django
    from django.conf import settings

    name = f"tenants-{way}-{mode}-{limit}"
    entry = database(ENGINES[way], {"max_size": 2, "release": mode, "timeout": 60})
    entry["OPTIONS"]["application_name"] = name
    if way == "engine":
        settings.configure(ORIGINAL_BACKEND="django_connpool.backends.postgresql")
    else:
        settings.configure()
    settings.DATABASES = {"default": entry}
    settings.INSTALLED_APPS = ["django_connpool", "django.contrib.contenttypes"]
    settings.TENANT_LIMIT_SET_CALLS = bool(limit)
    settings.USE_TZ = True
    django.setup()

    server = Server.from_url(os.environ["DATABASE_URL"])
    for number in range(TENANTS):
        server.execute(f"CREATE SCHEMA IF NOT EXISTS tenant_{number}")
        server.execute(f"CREATE TABLE IF NOT EXISTS tenant_{number}.who AS SELECT {number} AS id")

    from django_connpool import registry

    errors: list[str] = []
    right = [0] * THREADS
    threads = [threading.Thread(target=work, args=(n, right, errors)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pools = [pool for _, pool in registry.live()]
    tell(
        {
            "right": sum(right),
            "errors": errors[:3],
            "pools": len(pools),
            "opened": sum(pool.get_stats()["connections_num"] for pool in pools),
            "in_use": sum(pool.snapshot()["in_use"] for pool in pools),
        }
    )


def work(thread: int, right: list[int], errors: list[str]) -> None:
    for number in range(REQUESTS):
        try:
            right[thread] += request((thread + number) % TENANTS)
        except Exception as error:
            errors.append(repr(error))


def request(tenant: int) -> bool:
    from django.db import connection, transaction

    from django_connpool import scope

    wrapper: Any = connection

    def who() -> int:
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT id FROM who")
            return int(cursor.fetchone()[0])

    with scope(f"tenant {tenant}"):
        wrapper.set_schema(f"tenant_{tenant}")
        found = [who(), who()]
        with transaction.atomic():
            found.append(who())
        found.append(who())
    return found == [tenant] * 4


if __name__ == "__main__":
    main(*sys.argv[1:])
