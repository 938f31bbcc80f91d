from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_connpool.status import server
from tests import scratch


@pytest.fixture
def status_dir(settings: Any) -> Iterator[Path]:
    """An empty status directory of the test's own, in which this process does not answer yet."""
    server.stop()
    # Short, as the path of a Unix socket has to be; pytest's tmp_path is not.
    path = Path(tempfile.mkdtemp(prefix="s-", dir=scratch.folder()))
    settings.CONNPOOL_STATUS_DIR = str(path)
    yield path
    server.stop()
