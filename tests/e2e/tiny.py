"""A real project of a few lines, written into a folder, with tests of its own."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "manage.py": """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
""",
    "settings.py": """
import json, os
DATABASES = {"default": json.loads(os.environ["TINY_DATABASE"])}
INSTALLED_APPS = ["django_connpool", "tiny"]
MIDDLEWARE = ["django_connpool.middleware.ConnectionPoolMiddleware"]
ROOT_URLCONF = "tiny.urls"
SECRET_KEY = "tiny"
STATIC_URL = "static/"
DEBUG = True
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
""",
    "tiny/__init__.py": "",
    "tiny/apps.py": """
import warnings
from django.apps import AppConfig

class TinyConfig(AppConfig):
    name = "tiny"

    def ready(self):
        from django.db import connection
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                self.seen = cursor.fetchone()[0]
""",
    "tiny/models.py": """
from django.db import models

class Note(models.Model):
    text = models.TextField()
""",
    "tiny/urls.py": """
import os
from django.db import connection
from django.http import JsonResponse
from django.urls import path

def who(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return JsonResponse({"process": os.getpid(), "backend": cursor.fetchone()[0]})

urlpatterns = [path("", who)]
""",
    "tiny/tests.py": """
from threading import Thread
from django.apps import apps
from django.db import connection, connections
from django.test import TestCase, TransactionTestCase
from tiny.models import Note

def current():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return cursor.fetchone()[0]

class Checks:
    def test_the_database_is_that_of_the_tests(self):
        self.assertTrue(current().startswith("test_"), current())
        self.assertEqual(current(), connection.settings_dict["NAME"])
        self.assertNotEqual(current(), apps.get_app_config("tiny").seen)

    def test_nothing_is_left_of_the_other_tests(self):
        self.assertEqual(Note.objects.count(), 0)
        Note.objects.create(text="mine")

    def test_the_site_sees_the_same(self):
        Note.objects.create(text="mine")
        self.assertEqual(self.client.get("/").status_code, 200)
        self.assertEqual(Note.objects.count(), 1)

    def test_a_thread_sees_the_database_of_the_tests_too(self):
        seen = []
        def work():
            seen.append(current())
            connections.close_all()
        thread = Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(seen, [connection.settings_dict["NAME"]])

class FirstTests(Checks, TestCase):
    pass

class SecondTests(Checks, TestCase):
    pass

class ThirdTests(Checks, TransactionTestCase):
    pass
""",
}


def write(folder: Path) -> Path:
    """Write the project into the folder and return the folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.lstrip())
    return folder
