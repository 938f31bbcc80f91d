"""A primary and a standby: throwaway servers, to lose the first and promote the other."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import connections

import django_connpool
from tests.cluster import Cluster, make_folder, run_program

PAUSE = 0.005  # seconds between the writes of a thread


class Primary(Cluster):
    """A throwaway server that can be copied; `standby()` returns one that follows it."""

    def __init__(self, **settings: Any) -> None:
        # In its own folder: one that is killed leaves its shared memory behind.
        kept = {"wal_level": "replica", "max_wal_senders": 4, "full_page_writes": "on"}
        super().__init__(dynamic_shared_memory_type="mmap", **kept, **settings)

    def standby(self) -> Standby:
        return Standby(self)

    def kill(self) -> None:
        """Kill it as a crash of its host would: nobody says goodbye, nothing is put in order."""
        pid_file = self._data / "postmaster.pid"
        pid = int(pid_file.read_text().split()[0])
        for child in _children(pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        while _is_alive(pid):
            time.sleep(0.005)
        pid_file.unlink()

    def follow(self, other: Primary) -> None:
        """Be the standby of another, which was its own: after a shutdown, and a promotion there."""
        place = f"host={other.socket_dir} port={other.params()['port']} user=postgres"
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.write(f"primary_conninfo = '{place}'\n")
        signal_file = self._data / "standby.signal"
        signal_file.touch()
        owner = (self._data / "PG_VERSION").stat()
        os.chown(signal_file, owner.st_uid, owner.st_gid)
        self.start()

    def _configure(self) -> None:
        super()._configure()
        with (self._data / "pg_hba.conf").open("a") as hba:
            hba.write("local replication all trust\n")


class Standby(Primary):
    """A copy of a running primary, in hot standby until it is promoted."""

    def __init__(self, primary: Primary) -> None:
        self.version = primary.version
        self._programs = primary._programs
        self.folder = make_folder("standby-")
        self.socket_dir = str(self.folder)
        self._data = self.folder / "data"
        self._auth = primary._auth
        self.settings = primary.settings
        self._params = primary.params(port=None)
        place = ["-h", primary.socket_dir, "-p", primary.params()["port"], "-U", "postgres"]
        command = [str(self._programs / "pg_basebackup"), *place, "-D", str(self._data)]
        run_program(
            [*command, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"], self.folder
        )
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{self.socket_dir}'\n")

    def promote(self) -> None:
        """Make it a primary; return when it is one."""
        self._pg_ctl("promote")

    def delete(self) -> None:
        if self._data.exists():
            self.stop("immediate")
        shutil.rmtree(self.folder)


def _children(pid: int) -> list[int]:
    """The processes of a server, where the system tells."""
    with suppress(OSError):
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(each) for each in told.split()]
    return []


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def killed(primary: Primary, standby: Standby) -> None:
    """A crash, and a promotion after a second."""
    primary.stop("immediate")
    time.sleep(1.0)
    standby.promote()


def shut_down(primary: Primary, standby: Standby) -> None:
    """A switch-over in peace: sessions are terminated (57P01), and a promotion after a second."""
    primary.stop("fast")
    time.sleep(1.0)
    standby.promote()


def demoted(primary: Primary, standby: Standby) -> None:
    """The primary takes no writes any more but goes on, and its standby does a second later."""
    primary.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    primary.execute("SELECT pg_reload_conf()")
    time.sleep(1.0)
    standby.promote()


def killed_hard(primary: Primary, standby: Standby) -> None:
    """Killed with SIGKILL, and a promotion after a second."""
    primary.kill()
    time.sleep(1.0)
    standby.promote()


def swapped(primary: Primary, standby: Standby) -> None:
    """The primary is shut down, its standby promoted, and the old one comes back as a standby."""
    primary.stop("fast")
    standby.promote()
    primary.follow(standby)


def either(primary: Cluster, standby: Cluster) -> dict[str, Any]:
    """Entries of DATABASES[alias] that find whichever of the two is the primary."""
    return {
        **{key: value for key, value in primary.django().items() if key != "OPTIONS"},
        "NAME": primary.params()["dbname"],
        "HOST": "127.0.0.1,127.0.0.1",
        "PORT": f"{primary.params()['port']},{standby.params()['port']}",
    }


def make_table(primary: Primary, standby: Standby) -> None:
    """Make what `Writers` write to; return when the standby has it too."""
    primary.execute("CREATE TABLE written (id bigserial PRIMARY KEY)")
    primary.execute("CHECKPOINT")
    while not standby.execute("SELECT to_regclass('written')")[0][0]:
        time.sleep(0.01)


class Writers:
    """Threads that write, each time as a request of its own, until `stop`."""

    query = "INSERT INTO written DEFAULT VALUES RETURNING inet_server_port()"

    def __init__(self, alias: str, count: int) -> None:
        self.alias = alias
        self.took: list[tuple[float, bool]] = []  # seconds, and whether it was written
        self.errors: dict[str, int] = {}  # what was said how often
        # From when to when each took that succeeded, and at which port of a server.
        self.answered: list[tuple[float, float, int]] = []
        self.failed_at: list[float] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self.run_program) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def run_program(self) -> None:
        connection = connections[self.alias]
        while not self._over.wait(PAUSE):
            began, written = time.monotonic(), False
            connection.close_if_unusable_or_obsolete()
            try:
                with django_connpool.scope("write"), connection.cursor() as cursor:
                    cursor.execute(self.query)
                    self.answered.append((began, time.monotonic(), cursor.fetchone()[0]))
                written = True
            except Exception as error:
                self.failed_at.append(time.monotonic())
                said = str(error).split("\n")[0]
                self.errors[said] = self.errors.get(said, 0) + 1
            connection.close_if_unusable_or_obsolete()
            self.took.append((time.monotonic() - began, written))
        connection.close()

    def ask_to_stop(self, seconds: float) -> int:
        """Tell them to stop; return how many have not after so many seconds."""
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Readers(Writers):
    """Threads that read, each time as a request of its own, until `stop`."""

    query = "SELECT inet_server_port()"
