"""Django's own settings for its tests, on the databases of the process that started runtests.py."""

from __future__ import annotations

import json
import os

from test_sqlite import *  # noqa: F403  (in the same folder as runtests.py)

DATABASES = json.loads(os.environ["CONNPOOL_SUITE_DATABASES"])
TEST_RUNNER = "connpool_suite_recorder.Recorder"
