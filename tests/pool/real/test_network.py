"""A network of the test's own, whose packets are dropped from some moment on: a vanished host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster

ROOT = Path(__file__).parents[3]
SERVER, CLIENT = "10.203.0.1", "10.203.0.2"
LONGEST = 60  # seconds; TCP by itself goes on for a quarter of an hour

# In the namespace of the client. It says when it is ready, and waits for the word to go on.
SCRIPT = """
import json, sys, time
import psycopg
from django_connpool import ConnectionPool

pool = ConnectionPool(
    sys.argv[1], min_size=0, max_size=1, kwargs={"autocommit": True}, **json.loads(sys.argv[2])
)
for _ in range(100):  # until it knows its server, and what was given back is clean
    with pool.connection() as conn:
        conn.execute("SELECT 1")
with pool.connection() as conn:
    conn.execute("SELECT 1")
    on_loan = conn.execute if sys.argv[3] == "on loan" else None
    if on_loan:
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        try:
            on_loan("SELECT 1")
        except psycopg.OperationalError as error:
            print(json.dumps([time.monotonic() - began, str(error)]))
            raise SystemExit
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    with pool.connection() as conn:
        conn.execute("SELECT 1")
except psycopg.OperationalError as error:
    print(json.dumps([time.monotonic() - began, str(error)]))
pool.close()
"""


def ip(*arguments: str) -> bool:
    return not subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode


class Reachable(Cluster):
    """A throwaway server that takes connections from the other namespace too."""

    def _configure(self) -> None:
        super()._configure()
        with (self._data / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all all {CLIENT}/32 trust\n")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace whose only neighbour is this one."""
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("network namespaces want root and iproute2")
    name, here, there = f"connpool-{os.getpid()}", f"cp{os.getpid()}h", f"cp{os.getpid()}t"
    if not ip("netns", "add", name):
        pytest.skip("this machine makes no network namespaces")
    try:
        assert ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        assert ip("addr", "add", f"{SERVER}/30", "dev", here) and ip("link", "set", here, "up")
        inside = ("-n", name)
        assert ip(*inside, "addr", "add", f"{CLIENT}/30", "dev", there)
        assert ip(*inside, "link", "set", there, "up")
        yield name
    finally:
        ip("route", "del", "blackhole", f"{CLIENT}/32")
        ip("netns", "del", name)
        ip("link", "del", here)


@contextmanager
def client(namespace: str, dsn: str, how: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", textwrap.dedent(SCRIPT)]
    with subprocess.Popen(
        [*command, dsn, json.dumps(options), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


# Half a minute, because that is what it is about: a statement by default ends after so long.
@pytest.mark.stress
@pytest.mark.parametrize("how", ["idle", "on loan"])
@pytest.mark.parametrize("options", [{}, {"command_timeout": 1.0}], ids=["default", "limited"])
def test_a_vanished_host_is_given_up(namespace: str, how: str, options: dict[str, Any]) -> None:
    with (
        Reachable(listen_addresses=f"127.0.0.1,{SERVER}") as cluster,
        client(namespace, cluster.dsn(host=SERVER), how, **options) as process,
    ):
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        # From here on nothing that the server sends arrives, not even that something did.
        assert ip("route", "add", "blackhole", f"{CLIENT}/32")
        said, _ = process.communicate("go on\n", timeout=LONGEST)
        seconds, error = json.loads(said)
    print(f"{how}, {options}: {seconds:.1f} s, {error}")
    assert error
