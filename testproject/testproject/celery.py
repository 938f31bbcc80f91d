"""The Celery app: `celery -A testproject worker` finds it here, and tasks in each app's tasks.py.

Nothing is set for the pool: each task gives back what it borrowed at its end. See docs/running.md.
"""

from __future__ import annotations

import os

try:
    from celery import Celery
except ImportError as error:
    raise ImportError(f"{error}: install it, with `pip install celery`") from error

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")

app = Celery("testproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
