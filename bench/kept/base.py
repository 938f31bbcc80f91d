"""Connections that stay open for async code, where each request has a thread of its own.

Nobody bounds them, looks whether they live, or cleans them: so this costs what no pool can save.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db.backends.postgresql import base

_free: defaultdict[str, list[Any]] = defaultdict(list)


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        free = _free[self.alias]
        return free.pop() if free else super().get_new_connection(conn_params)

    def _close(self) -> None:
        if self.connection is not None:
            _free[self.alias].append(self.connection)
