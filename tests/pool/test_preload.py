"""A process that warms a pool and then forks those who use it, as gunicorn --preload does."""

from __future__ import annotations

import subprocess
import sys

from tests.cluster import Server

SCRIPT = """
import os, sys, time
from django_connpool import ConnectionPool

dsn, borrows_first = sys.argv[1], sys.argv[2] == "yes"

def wait_for(size):
    deadline = time.monotonic() + 30
    while pool.get_stats()["pool_size"] != size and time.monotonic() < deadline:
        time.sleep(0.01)
    return pool.get_stats()["pool_size"]

pool = ConnectionPool(dsn, min_size=2, max_size=4, keep_min=False)
pool.warm()
pool.wait()
if borrows_first:
    with pool.connection():
        pass
child = os.fork()
if not child:
    with pool.connection():
        pass
    print("child", wait_for(2), flush=True)
    pool.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", wait_for(2 if borrows_first else 0), flush=True)
"""


def sizes(server: Server, borrows_first: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, server.dsn(), borrows_first],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_master_that_never_borrows_keeps_no_connections(cluster: Server) -> None:
    assert sizes(cluster, "no") == ["child 2", "parent 0"]


def test_a_parent_that_borrows_keeps_its_own(cluster: Server) -> None:
    assert sizes(cluster, "yes") == ["child 2", "parent 2"]
