"""A bound for the host with real processes: what the server sees, whatever befalls them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Server
from tests.most_sessions import MostSessions
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

SECONDS = 60
# Seconds, at most, for which a borrower keeps a connection: long enough to be worth one more.
LONG = 0.04
KILLS = int(os.environ.get("PLACES_KILLS", "300"))  # for ten minutes 5700


class Nursery:
    """Forks workers, which begin at once: they have loaded everything before."""

    def __init__(self, process: subprocess.Popen[str], asked: dict[str, Any]) -> None:
        self._process, self._asked = process, asked

    def bear(self, name: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**self._asked, "name": name, "forked": 1}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Workers:
    def __init__(self, server: Server, folder: Path, most: int) -> None:
        self.name = f"workers-{os.getpid()}-{folder.name}"
        self._asked = {
            "dsn": server.dsn(),
            "path": str(folder / "shared.places"),
            "most": most,
            "application_name": self.name,
            "threads": 4,
        }
        self.all: list[subprocess.Popen[str]] = []

    def start(self, **changes: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.places.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        asked = {**self._asked, "name": f"worker-{len(self.all)}", **changes}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        self.all.append(process)
        return process

    def nursery(self) -> Nursery:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.places.worker", "nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.all.append(process)
        return Nursery(process, self._asked)

    def begun(self, process: subprocess.Popen[str]) -> int:
        assert process.stdout is not None
        return int(json.loads(process.stdout.readline())["pid"])

    def end(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, _ = process.communicate(timeout=SECONDS)
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert process.returncode == 0
        return found

    def kill_all(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.kill()
                process.communicate()


def watching(cluster: Server, workers: Workers) -> MostSessions:
    return MostSessions(cluster, "application_name", workers.name, pause=0.001)


@pytest.fixture
def workers(cluster: Server, tmp_path: Path) -> Iterator[Workers]:
    tmp_path.chmod(0o700)
    workers = Workers(cluster, tmp_path, 5)
    yield workers
    workers.kill_all()


def test_the_server_never_sees_more_and_every_process_has_its_part(
    cluster: Server, workers: Workers
) -> None:
    with watching(cluster, workers) as seen:
        for _ in range(6):
            workers.start()
        for process in workers.all:
            workers.begun(process)
        time.sleep(4)  # of work
        found = [workers.end(process) for process in workers.all]
    assert seen.most == 5, seen.looks
    assert seen.looks > 200
    assert all(one["done"] > 10 and not one["errors"] for one in found), found


def test_a_child_shares_the_bound_and_its_parent_keeps_its_own(
    cluster: Server, workers: Workers
) -> None:
    with watching(cluster, workers) as seen:
        forking = workers.start(forks=True, hold=LONG)
        other = workers.start(hold=LONG)
        workers.begun(forking)
        workers.begun(other)
        wait_until(lambda: seen.most == 5, "all places are used")
        time.sleep(1)  # of work
        found = [workers.end(other), workers.end(forking)]
    assert seen.most == 5
    assert all(one["done"] and not one["errors"] for one in found)


def test_a_process_that_is_stopped_keeps_what_it_has_and_holds_nobody_up(
    cluster: Server, workers: Workers
) -> None:
    with watching(cluster, workers) as seen:
        stopped = workers.start(max_size=2, hold=LONG)
        pid = workers.begun(stopped)
        wait_until(lambda: seen.now == 2, "it has two")
        os.kill(pid, signal.SIGSTOP)
        try:
            other = workers.start(hold=LONG)
            workers.begun(other)
            wait_until(lambda: seen.now == 5, "the other has three")
            time.sleep(1)  # of work
            found = workers.end(other)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert workers.end(stopped)["errors"] == []
    assert seen.most == 5
    assert not found["errors"]
    assert found["done"] > 50


@pytest.mark.stress
def test_no_place_is_lost_when_processes_are_killed(cluster: Server, workers: Workers) -> None:
    """Processes are killed at any moment of their lives, and others take their places."""
    chance = random.Random(7)
    nursery = workers.nursery()

    def born() -> int:
        return nursery.bear(name="one")

    running = [born() for _ in range(8)]
    try:
        with watching(cluster, workers) as seen:
            for _ in range(KILLS):
                # Some are killed as they start, some in the middle of their work.
                time.sleep(chance.choice([0.0, 0.02, 0.1, 0.3]))
                os.kill(running.pop(chance.randrange(len(running))), signal.SIGKILL)
                running.append(born())
            used = seen.most
            while running:
                os.kill(running.pop(), signal.SIGKILL)
            wait_until(lambda: seen.now == 0, "all are gone", 30)
            # Those that are left have all places, and no more.
            last = [workers.start(hold=LONG) for _ in range(2)]
            wait_until(lambda: seen.now == 5, "all places are used", 30)
            found = [workers.end(one) for one in last]
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
    assert used
    assert seen.most <= 5, seen.looks
    assert all(one["done"] and not one["errors"] for one in found)
