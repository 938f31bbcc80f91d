"""For django-health-check 4: whether the pools can serve, from the process's memory.

    HealthCheckView.as_view(checks=["django_connpool.contrib.health_check.Pools"])

It borrows nothing and asks no server: the package's own check of a database does both, in a thread
of an executor, and waits where the pool is exhausted. `aliases` chooses pools:
`("django_connpool.contrib.health_check.Pools", {"aliases": ["default"]})`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from django_connpool.status import readiness


@dataclasses.dataclass
class Pools(HealthCheck):  # type: ignore[misc]
    """Fails when a pool is busy, stuck or down, by the settings of `status/readiness.py`."""

    aliases: Sequence[str] | None = None

    async def run(self) -> None:
        """In the event loop: there is nothing to wait for."""
        if found := readiness.here(self.aliases or ()):
            raise ServiceUnavailable("; ".join(map(str, found)))
