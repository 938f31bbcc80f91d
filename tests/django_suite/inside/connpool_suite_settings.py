"""Settings for Django's runtests.py; the databases come from the process that started it."""

from __future__ import annotations

import json
import os

DATABASES = json.loads(os.environ["CONNPOOL_SUITE_DATABASES"])
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = "only for tests"
TEST_RUNNER = "connpool_suite_recorder.Recorder"
USE_TZ = False
