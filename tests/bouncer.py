"""PgBouncer before a server: Debian's, `apt-get install pgbouncer`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cluster import EXIT_TIMEOUT, Cluster, Server, free_port, make_folder

MODES = ("session", "transaction", "statement")
PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

wanted = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="no PgBouncer: apt-get install pgbouncer"
)


class PgBouncer(Server):
    """One before a server, with few sessions for many clients. Use it as a context manager."""

    def __init__(self, cluster: Cluster, mode: str, sessions: int = 2, **settings: Any) -> None:
        self.mode = mode
        self._cluster = cluster
        self._folder = make_folder("pgbouncer-")
        super().__init__(cluster.params(host="127.0.0.1", port=free_port()))
        place = cluster.params()
        said = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.params()["port"],
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self._folder / "users",
            "pool_mode": mode,
            "default_pool_size": sessions,
            "max_client_conn": 200,
            "logfile": self._folder / "log",
            **settings,
        }
        lines = [f"{key} = {value}\n" for key, value in said.items()]
        (self._folder / "users").write_text('"postgres" ""\n')
        (self._folder / "ini").write_text(
            f"[databases]\n* = host={place['host']} port={place['port']}\n[pgbouncer]\n"
            + "".join(lines)
        )

    @classmethod
    def of(cls, other: PgBouncer) -> PgBouncer:
        """One more before the same server, in the same mode, whose sessions nobody has used."""
        return cls(other._cluster, other.mode)

    def restart(self) -> None:
        """Kill it, and start it again."""
        self._process.kill()
        self._process.wait()
        self.__enter__()

    def __enter__(self) -> PgBouncer:
        user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root, too
        self._process = subprocess.Popen(
            [PROGRAM, "-q", str(self._folder / "ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        deadline = time.monotonic() + EXIT_TIMEOUT
        while True:
            try:
                psycopg.connect(self.dsn()).close()
                return self
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "log").read_text()
                    raise RuntimeError(f"PgBouncer does not start:\n{said}") from None
                time.sleep(0.02)

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)
