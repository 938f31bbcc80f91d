"""Packages that bring schema editors: `python -m tests.works_with.schemas PACKAGE WAY MODE`.

psqlextra brings an engine, with fields and an upsert; pgtrigger puts a class of its own over the
schema editor of the engine at hand.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.works_with.processes import ENGINES, database, tell

PSQLEXTRA = {
    "engine": ("psqlextra.backend", "django_connpool.backends.postgresql"),
    "mixin": ("tests.works_with.psqlextra_pooled", "django.db.backends.postgresql"),
}


def set_up(engine: str, mode: str, apps: list[str], **settings: Any) -> None:
    import django
    from django import conf

    conf.settings.configure(
        DATABASES={"default": database(engine, {"max_size": 2, "release": mode})},
        INSTALLED_APPS=["django_connpool", "django.contrib.contenttypes", *apps],
        USE_TZ=True,
        **settings,
    )
    django.setup()


def psqlextra(way: str, mode: str) -> dict[str, Any]:
    engine, base = PSQLEXTRA[way]
    set_up(
        engine,
        mode,
        ["psqlextra"],
        POSTGRES_EXTRA_DB_BACKEND_BASE=base,
        # The server that the tests start has no extensions.
        POSTGRES_EXTRA_AUTO_EXTENSION_SET_UP=False,
    )
    from django.core.management import call_command
    from django.db import connection, models
    from psqlextra.backend.schema import PostgresSchemaEditor
    from psqlextra.models import PostgresModel
    from psqlextra.query import ConflictAction

    from django_connpool import scope

    class Thing(PostgresModel):
        name: Any = models.CharField(max_length=20, unique=True)
        color: Any = models.CharField(max_length=20)

        class Meta:
            app_label = "contenttypes"
            db_table = "psqlextra_thing"

    with scope("migrate"):
        call_command("migrate", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS psqlextra_thing")
        with connection.schema_editor() as editor:
            is_theirs = isinstance(editor, PostgresSchemaEditor)
            editor.create_model(Thing)
    with scope("use"):
        for color in ("red", "green"):
            Thing.objects.on_conflict(["name"], ConflictAction.UPDATE).insert(
                name="one", color=color
            )
    with scope("look"):
        found = [thing.color for thing in Thing.objects.all()]
    wrapper: Any = connection
    return {
        "theirs": is_theirs,
        "found": found,
        "in_use": wrapper.pool.snapshot()["in_use"],
    }


def pgtrigger(way: str, mode: str) -> dict[str, Any]:
    set_up(ENGINES[way], mode, ["pgtrigger"])
    import pgtrigger as theirs
    from django.db import connection, models
    from django.db.utils import ProgrammingError
    from pgtrigger.migrations import DatabaseSchemaEditorMixin

    from django_connpool import scope

    class Kept(models.Model):
        class Meta:
            app_label = "contenttypes"
            db_table = "pgtrigger_kept"

    theirs.register(theirs.Protect(name="keep", operation=theirs.Delete))(Kept)
    with scope("migrate"):
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS pgtrigger_kept")
        with connection.schema_editor() as editor:
            is_theirs = isinstance(editor, DatabaseSchemaEditorMixin)
            editor.create_model(Kept)
        theirs.install(database="default")
    refused = False
    with scope("use"):
        kept: Any = Kept.objects.create()  # type: ignore[attr-defined]
        try:
            kept.delete()
        except ProgrammingError:
            refused = True
    with scope("ignore"), theirs.ignore("contenttypes.Kept:keep"):
        Kept.objects.all().delete()  # type: ignore[attr-defined]
    with scope("look"):
        left = Kept.objects.count()  # type: ignore[attr-defined]
    wrapper: Any = connection
    return {
        "theirs": is_theirs,
        "refused": refused,
        "left": left,
        "in_use": wrapper.pool.snapshot()["in_use"],
    }


if __name__ == "__main__":
    tell(globals()[sys.argv[1]](*sys.argv[2:]))
