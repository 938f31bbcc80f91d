"""What makes the tiny project one with Celery: an app, and a task that tells where it ran."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "tiny/celery.py": """
import os
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("tiny")
here = os.environ["TINY_BROKER"]
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": here,
        "data_folder_out": here,
        "control_folder": here + "-control",
        "polling_interval": 0.05,
    },
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    include=["tiny.tasks"],
)
""",
    "tiny/tasks.py": """
import os, threading
from django.db import connection, transaction
from tiny.celery import app

ADD = "INSERT INTO done VALUES (%s, %s, pg_backend_pid(), %s, %s)"

@app.task(bind=True)
def note(self, number):
    pool = connection.pool
    # What this thread holds before its first query: whatever an earlier task has left.
    left = connection.connection is not None
    with connection.cursor() as cursor:
        loans = {loan["note"]: loan["at"] for loan in pool.snapshot()["loans"]}
        line = loans.get(f"tiny.tasks.note[{self.request.id}]") or ""
        named = "tiny/tasks.py:" in line and line.endswith("in note")
        cursor.execute(ADD, [number, os.getpid(), left, named])
    if number % 7 == 3:
        raise RuntimeError("on purpose")
    if number % 7 == 5:
        transaction.set_autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
""",
}


def add(project: Path) -> Path:
    """Write it into the tiny project."""
    for name, text in FILES.items():
        (project / name).write_text(text.lstrip())
    broker = project / "broker"
    for folder in (broker, project / "broker-control"):
        folder.mkdir()
    return broker
