"""Stands for a slow service of somebody else's. Not to be copied."""

from __future__ import annotations

import time
import zlib

ANSWER_SECONDS = 0.05


def delivery_days(slug: str) -> int:
    """Days until a product arrives, from a carrier's slow service (simulated)."""
    time.sleep(ANSWER_SECONDS)
    return 1 + zlib.crc32(slug.encode()) % 5
