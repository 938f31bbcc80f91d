from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from shop import sample
from tests import scratch


@pytest.fixture
def shop(db: None) -> None:
    """The shop with its sample data."""
    sample.load()


@pytest.fixture
def place() -> Path:
    """A folder with a short path, which an embedded server can get to."""
    path = Path(tempfile.mkdtemp(prefix="site-", dir=scratch.folder()))
    path.chmod(0o755)
    return path
