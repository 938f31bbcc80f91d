"""What a failover costs, and how long the old server is still used: beside stock and Django's pool.

Six threads write and two read, each time as a request of its own, over a primary and a standby;
`HOST` names both, and `target_session_attrs=read-write` finds whichever of the two takes writes.
After a second something happens to the primary.

  failed writes     of six threads
  longest           that a write has taken, whether it was written or not
  old one gone      seconds from the promotion to the end of the last connection to the old server;
                    "never" is one that lasted until the end of the scene; nothing is said where
                    the network swallows, for the old server cannot hear of it
  last read there   seconds from the promotion to the last read that the old server has answered
  hung              threads that had to be freed at the end, for nothing answered them any more

Each subject meets each scene `--rounds` times, in turn with the others; shown are the median, the
least and the most. `balance` is another table: how eight connections stand over two replicas.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import django
from django.conf import settings

from bench.measure import spread, table
from bench.outages import SUBJECTS, THREADS
from bench.peers import quiet
from tests.cluster import Server
from tests.proxy import Proxy
from tests.standby import (
    Primary,
    Readers,
    Standby,
    Writers,
    demoted,
    either,
    killed_hard,
    make_table,
    shut_down,
    swapped,
)

READERS = 2
BEFORE, AFTER = 1.0, 6.0  # seconds of a scene
NAMES = ("stock", "stock, health checks", "Django's pool", "ours", "ours, transaction")
LIMIT = 1  # seconds that a statement may take, where the network is cut
HEADER = ["", "failed writes", "longest, s", "old one gone, s", "last read there, s", "hung"]


class Scene:
    """What happens to a primary, and what of it was seen."""

    def __init__(self, happens: Callable[[Primary, Standby], None], cut: bool = False) -> None:
        self.happens = happens
        self.cut = cut  # by a network that swallows, not by what happens to the server
        self.title = happens.__doc__ or ""


def cut_off(primary: Primary, standby: Standby) -> None:
    """The network swallows all that is for the primary, which lives; a promotion after a second.
    Statements may take a second (`command_timeout` of ours, `statement_timeout` of the others)."""
    time.sleep(1.0)
    standby.promote()


SCENES = {
    "killed": Scene(killed_hard),
    "shut_down": Scene(shut_down),
    "demoted": Scene(demoted),
    "swapped": Scene(swapped),
    "cut_off": Scene(cut_off, cut=True),
}


class Watcher:
    """Asks a server, past any proxy, when the last connection of a name was seen there."""

    def __init__(self, server: Server, name: str) -> None:
        self.last = 0.0
        self._server, self._name = server, name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            with suppress(Exception):  # it is down
                if self._server.backends(application_name=self._name):
                    self.last = time.monotonic()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def play(name: str, key: str) -> list[float]:
    """Play a scene for a subject; return the row of numbers of HEADER."""
    scene = SCENES[key]
    with ExitStack() as stack:
        primary = stack.enter_context(Primary())
        standby = stack.enter_context(primary.standby())
        make_table(primary, standby)
        old = int(primary.params()["port"])
        front: Any = stack.enter_context(Proxy(primary)) if scene.cut else primary
        place = {
            **either(primary, standby),
            "PORT": f"{front.params()['port']},{standby.params()['port']}",
        }
        app = f"{name}-{key}".replace(" ", "-").replace("'", "").replace(",", "")
        alias = stack.enter_context(database(name, place, app, scene.cut))
        writers, readers = Writers(alias, THREADS), Readers(alias, READERS)
        watcher = Watcher(primary, app)
        time.sleep(BEFORE)
        if scene.cut:
            front.blackhole()
        scene.happens(primary, standby)
        promoted = time.monotonic()
        time.sleep(AFTER)
        ended, gone, hung = time.monotonic(), watcher.last, 0
        watcher.stop()
        if scene.cut:
            hung = writers.ask_to_stop(5.0) + readers.ask_to_stop(0.5)
            front.stop()
        writers.stop()
        readers.stop()
    read_there = [at for _, at, port in readers.answered if port == old]
    return [
        float(writers.failed),
        max(seconds for seconds, _ in writers.took),
        _seconds(gone, promoted, ended, scene.cut),
        max(0.0, max(read_there, default=0.0) - promoted),
        float(hung),
    ]


def _seconds(gone: float, promoted: float, ended: float, cut: bool) -> float:
    """From the promotion to the end of the last connection: infinite when it was still there."""
    if cut:  # which the old server cannot hear of
        return float("nan")
    return float("inf") if gone > ended - 0.5 else max(0.0, gone - promoted)


@contextmanager
def database(name: str, place: dict[str, Any], app: str, limited: bool = False) -> Iterator[str]:
    """An alias for a subject, whose pool is closed at the end."""
    from django.db import connections

    subject = SUBJECTS[name]
    options = {
        "target_session_attrs": "read-write",
        "application_name": app,
        **subject.get("OPTIONS", {}),
    }
    if limited and name.startswith("ours"):
        options["pool"] = {**options["pool"], "command_timeout": LIMIT}
    elif limited:
        options["options"] = f"-c statement_timeout={LIMIT}s"
    entry = {**settings.DATABASES["default"], **place, **subject, "OPTIONS": options}
    connections.settings[app] = connections.configure_settings({"default": {}, app: entry})[app]
    try:
        yield app
    finally:
        if getattr(connections[app], "pool", None) is not None:
            connections[app].close_pool()


def words(values: list[float]) -> str:
    """A column of a subject: "never" where it did not end."""
    if all(value == float("inf") for value in values):
        return "never"
    if values[0] != values[0]:
        return "-"
    return spread(values).replace("inf", "never")


# -- Balance over replicas ------------------------------------------------------------------


class SlowReaders(Readers):
    """They read for so long that each needs a connection of its own."""

    query = "SELECT inet_server_port() FROM pg_sleep(0.05)"


def balance(name: str, lifetime: float = 2.0) -> list[object]:
    """Eight threads read from two replicas; one goes and comes back. How many stand at which."""
    from django.db import connections

    with ExitStack() as stack:
        primary = stack.enter_context(Primary())
        one, other = (stack.enter_context(primary.standby()) for _ in range(2))
        for each in (one, other):
            each.start() if not each.running else None
        subject = SUBJECTS[name]
        pool = subject.get("OPTIONS", {}).get("pool")
        place = either(one, other)
        place["OPTIONS"] = {"load_balance_hosts": "random", "application_name": "balance"}
        if pool is not None:
            place["OPTIONS"]["pool"] = {**pool, "max_size": 8, "max_lifetime": lifetime}
            max_age: dict[str, Any] = {}
        else:
            max_age = {"CONN_MAX_AGE": lifetime}
        entry = {**settings.DATABASES["default"], **place, "ENGINE": subject["ENGINE"], **max_age}
        alias = f"balance-{one.params()['port']}"  # Django keeps pools by their aliases
        connections.settings[alias] = connections.configure_settings({"default": {}, alias: entry})[
            alias
        ]
        readers = SlowReaders(alias, 8)
        seen: list[str] = []

        def look() -> None:
            counts = [each.backends(application_name="balance") for each in (one, other)]
            seen.append(" : ".join(map(str, counts)))

        try:
            time.sleep(3.0)
            look()
            other.stop("fast")
            time.sleep(1.0)
            seen.append(f"{one.backends(application_name='balance')} : -")
            other.start()
            time.sleep(lifetime + 1.0)
            look()
        finally:
            readers.stop()
            if getattr(connections[alias], "pool", None) is not None:
                connections[alias].close_pool()
    return [name, *seen, readers.failed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="*", choices=[*SCENES, "balance"], default=[*SCENES, "balance"]
    )
    parser.add_argument("--subjects", nargs="*", choices=list(SUBJECTS), default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quiet()
    settings.configure(DATABASES={"default": {"ENGINE": SUBJECTS["stock"]["ENGINE"]}}, USE_TZ=True)
    django.setup()
    for key in options.only:
        if key == "balance":
            rows = [balance(name) for name in options.subjects for _ in range(options.rounds)]
            heads = ["", "at first", "one away", "a lifetime later", "failed reads"]
            table("Connections at two replicas, load_balance_hosts=random:", heads, rows)
            continue
        found: dict[str, list[list[float]]] = {name: [] for name in options.subjects}
        for _ in range(options.rounds):
            for name in options.subjects:
                found[name].append(play(name, key))
        rows = [
            [name, *(words(list(column)) for column in zip(*played, strict=True))]
            for name, played in found.items()
        ]
        table(SCENES[key].title, HEADER, rows)


if __name__ == "__main__":
    main()
