"""Logs for machines: one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

# What the pool's records have beside their text: docs/logs.md says what each means.
FIELDS = (
    *("pool", "in_use", "waiting", "waited", "held", "lasted"),
    *("reason", "work", "status_code", "repeated"),
)


class Json(logging.Formatter):
    """The text of a record, and the fields that it has."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "pid": record.process,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
