from __future__ import annotations

from tests.status.conftest import status_dir

__all__ = ["status_dir"]
