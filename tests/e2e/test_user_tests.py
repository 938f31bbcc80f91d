"""Tests of users: what Django's and pytest's runners do to databases with a pool on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import Server
from tests.e2e import processes
from tests.e2e.conftest import TINY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

Environ = Callable[..., dict[str, str]]

LIVE = """
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen
from django.db import connection, connections
from django.test import LiveServerTestCase
from tiny.models import Note
from tiny.tests import current

class LiveTests(LiveServerTestCase):
    def test_the_server_and_its_test_see_the_same_database(self):
        Note.objects.create(text="mine")
        with ThreadPoolExecutor(8) as executor:
            for body in executor.map(lambda _: urlopen(self.live_server_url).read(), range(40)):
                self.assertIn(b"backend", body)
        self.assertTrue(current().startswith("test_"))

    def test_threads_that_live_on_do_not_keep_the_database_from_being_dropped(self):
        lingering = ThreadPoolExecutor(2)
        self.assertEqual(lingering.submit(current).result(), connection.settings_dict["NAME"])
        type(self).lingering = lingering
"""

HOLDER = """
import threading
from django.db import connection, transaction
from django.test import TransactionTestCase

class HolderTests(TransactionTestCase):
    def test_a_thread_that_is_in_the_middle_of_something(self):
        begun = threading.Event()
        def hold():
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                begun.set()
                threading.Event().wait()
        threading.Thread(target=hold, name="the-culprit", daemon=True).start()
        begun.wait()
"""

MIRROR = """
from django.db import connections
from django.test import TransactionTestCase
from tiny.models import Note

class MirrorTests(TransactionTestCase):
    databases = {"default", "replica"}

    def test_the_replica_is_the_test_database_too(self):
        for alias in self.databases:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT current_database()")
                self.assertTrue(cursor.fetchone()[0].startswith("test_"))
        Note.objects.create(text="mine")
        self.assertEqual(Note.objects.using("replica").count(), 1)
"""

REPLICA = """
DATABASES["replica"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
"""

PYTEST = """
import pytest
from django.db import connection
from tiny.models import Note
from tiny.tests import current

@pytest.mark.parametrize("number", range(8))
@pytest.mark.django_db
def test_in_a_transaction(number):
    assert current() == connection.settings_dict["NAME"]
    assert current().startswith("test_")
    assert Note.objects.count() == 0
    Note.objects.create(text="mine")

@pytest.mark.parametrize("number", range(4))
@pytest.mark.django_db(transaction=True)
def test_without_one(number, client):
    assert current().startswith("test_")
    assert Note.objects.count() == 0
    Note.objects.create(text="mine")
    assert client.get("/").status_code == 200
"""


def databases(server: Server) -> list[str]:
    found = server.execute(
        "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1", [f"%{TINY}%"]
    )
    return [name for (name,) in found]


@pytest.mark.parametrize("options", [[], ["--parallel", "2"]], ids=["serial", "parallel"])
def test_a_live_server_and_threads_that_live_on_leave_nothing(
    project: Path, tiny_environ: Environ, cluster: Server, options: list[str]
) -> None:
    (project / "tiny" / "test_live.py").write_text(LIVE)
    done = processes.run(project, "manage.py", "test", *options, **tiny_environ(max_size=8))

    assert "Ran 14 tests" in done.stderr
    assert databases(cluster) == [TINY]


def test_a_mirror_is_the_test_database(
    project: Path, tiny_environ: Environ, cluster: Server
) -> None:
    (project / "tiny" / "test_mirror.py").write_text(MIRROR)
    settings = project / "settings.py"
    settings.write_text(settings.read_text() + REPLICA)
    done = processes.run(project, "manage.py", "test", **tiny_environ())

    assert "Ran 13 tests" in done.stderr
    assert databases(cluster) == [TINY]


def test_who_still_holds_a_connection_when_the_database_is_dropped_is_named(
    project: Path, tiny_environ: Environ
) -> None:
    (project / "tiny" / "test_holder.py").write_text(HOLDER)
    done = subprocess.run(
        [sys.executable, "manage.py", "test"],
        cwd=project,
        env=processes.own_environ(tiny_environ()),
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode != 0
    assert "is being accessed by other users" in done.stderr
    assert "the-culprit" in done.stderr
    assert "test_holder.py" in done.stderr


@pytest.mark.ways
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("again", [[], ["--reuse-db"]], ids=["once", "reused"])
def test_pytest_django_and_xdist_use_the_test_databases_alone(
    project: Path, tiny_environ: Environ, cluster: Server, workers: str, again: list[str]
) -> None:
    pytest.importorskip("xdist")
    (project / "test_notes.py").write_text(PYTEST)
    (project / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = settings\n")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, *again]
    for _ in range(2 if again else 1):
        done = processes.run(project, *command, **tiny_environ(max_size=3))
        assert "12 passed" in done.stdout

    expected = {TINY}
    if again:
        expected |= {f"test_{TINY}_gw{n}" for n in range(2)} if workers == "2" else {f"test_{TINY}"}
    assert set(databases(cluster)) == expected
    for name in expected:
        assert cluster.backends(dbname=name) == 0
