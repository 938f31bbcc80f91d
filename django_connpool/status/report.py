"""What was collected, as one thing: for a table, for JSON, for Prometheus."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from django_connpool.status.activity import Activity, Unavailable
from django_connpool.status.collect import Collected
from django_connpool.status.document import VERSION, Process


@dataclass(frozen=True)
class Report:
    """The answers of all processes, and of the servers by alias."""

    collected: Collected = field(default_factory=Collected)
    server: dict[str, Activity | Unavailable] = field(default_factory=dict)

    @property
    def processes(self) -> list[Process]:
        return self.collected.processes

    def only(self, alias: str) -> Report:
        """The part that concerns one alias: its pools, and the processes that have one."""
        kept: list[Process] = []
        for process in self.processes:
            pools = [pool for pool in process["pools"] if alias in pool["aliases"]]
            if pools:
                kept.append({**process, "pools": pools})
        server = {alias: self.server[alias]} if alias in self.server else {}
        return Report(replace(self.collected, processes=kept), server)

    def of_process(self, pid: int) -> Report:
        """The part that concerns one process."""
        kept = [process for process in self.processes if process["pid"] == pid]
        silent = [silence for silence in self.collected.silent if silence.pid == pid]
        return Report(replace(self.collected, processes=kept, silent=silent), self.server)

    def as_dict(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {
            "version": VERSION,
            "processes": self.processes,
            "unanswered": [
                {"pid": silence.pid, "problem": silence.problem}
                for silence in self.collected.silent
            ],
            "directories": [str(path) for path in self.collected.directories],
            "refused": self.collected.refused,
            "server": self.server,
        }

    def as_json(self, indent: int | None = 2, **more: Any) -> str:
        return json.dumps({**self.as_dict(), **more}, indent=indent)
