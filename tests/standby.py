"""A primary and a standby: throwaway servers, to lose the first and promote the other."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

from django.db import connections

import django_connpool
from tests.cluster import Cluster, make_folder, run_program

PAUSE = 0.005  # seconds between the writes of a thread


class Primary(Cluster):
    """A throwaway server that can be copied; `standby()` returns one that follows it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(wal_level="replica", max_wal_senders=4, full_page_writes="on", **settings)

    def standby(self) -> Standby:
        return Standby(self)

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

    def __init__(self, alias: str, count: int) -> None:
        self.alias = alias
        self.took: list[tuple[float, bool]] = []  # seconds, and whether it was written
        self.errors: dict[str, int] = {}  # what was said how often
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
                    cursor.execute("INSERT INTO written DEFAULT VALUES")
                written = True
            except Exception as error:
                said = str(error).split("\n")[0]
                self.errors[said] = self.errors.get(said, 0) + 1
            connection.close_if_unusable_or_obsolete()
            self.took.append((time.monotonic() - began, written))
        connection.close()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
