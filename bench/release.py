"""What giving back between transactions is worth: many threads that mostly wait, few connections.

A request queries, waits for something else, queries again (`--queries`: oftener) and gives back.
Side by side: this backend in both modes of `release`, Django's own pool, django-pg-real-pool (which
also gives back early), a connection for each thread, and stock Django behind PgBouncer in
transaction mode.

Each subject lives in a process of its own and has its turn while the others sleep, so that
the processor time of a process is that of one subject. `possible` is what the threads could do
if queries took no time. CPU is that of the Python process: PgBouncer's own is not in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from bench.measure import table
from bench.peers import quiet
from bench.request_cycle import OURS, STOCK
from tests.cluster import Cluster

THREADS = 64
CONNECTIONS = 4
POOL = {"min_size": CONNECTIONS, "max_size": CONNECTIONS, "timeout": 60}
REAL_POOL = "django_pg_real_pool"
PGBOUNCER = "/usr/sbin/pgbouncer"

PERSISTENT = "persistent"
DJANGO = "Django's pool"
REAL = "real-pool"
BOUNCER = "PgBouncer"
SUBJECTS: dict[str, dict[str, Any]] = {
    "transaction": {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "release": "transaction"}}},
    "request": {"ENGINE": OURS, "OPTIONS": {"pool": {**POOL, "release": "request"}}},
    DJANGO: {"ENGINE": STOCK, "OPTIONS": {"pool": POOL}},
    REAL: {"ENGINE": REAL_POOL, "OPTIONS": {"pool": POOL}},
    PERSISTENT: {"ENGINE": STOCK, "CONN_MAX_AGE": None},
    BOUNCER: {"ENGINE": STOCK, "CONN_MAX_AGE": None, "DISABLE_SERVER_SIDE_CURSORS": True},
}

# -- In the process of a subject ------------------------------------------------------------


class Threads:
    """Threads that live on from round to round, as those of a server do."""

    def __init__(self, request: Callable[[float], None]) -> None:
        self._request = request
        self._gate = threading.Barrier(THREADS + 1)
        self._pause = self._until = 0.0
        self._rates: list[float] = []
        self._requests = 0
        self._error: BaseException | None = None
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()

    def run(self, pause: float, seconds: float) -> dict[str, float]:
        """Requests a second, and microseconds of processor time for each."""
        self._pause, self._until = pause, time.perf_counter() + seconds
        self._rates, self._requests = [], 0
        spent = time.process_time()
        self._gate.wait()
        self._gate.wait()
        spent = time.process_time() - spent
        if self._error is not None:
            raise self._error
        return {"rate": sum(self._rates), "cpu": spent / self._requests * 1e6}

    def _serve(self) -> None:
        while True:
            self._gate.wait()
            began = now = time.perf_counter()
            done = 0
            try:
                while not done or now < self._until:
                    self._request(self._pause)
                    done += 1
                    now = time.perf_counter()
            except BaseException as error:
                self._error = error
            self._rates.append(done / (now - began))
            self._requests += done
            self._gate.wait()


def request_to(pooled: bool, queries: int) -> Callable[[float], None]:
    """A function that does what Django, and our middleware, do around such a request."""
    from django.db import close_old_connections, connection

    from django_connpool import scope

    def query() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()

    def handle(pause: float) -> None:
        close_old_connections()
        with scope("request") if pooled else nullcontext():
            query()
            if pause:
                time.sleep(pause)
            for _ in range(queries - 1):
                query()
        close_old_connections()

    return handle


def serve_rounds(entry: dict[str, Any], queries: int) -> None:
    """Read rounds from standard input, write what they came to."""
    settings.configure(DATABASES={"default": entry}, USE_TZ=True, INSTALLED_APPS=[])
    django.setup()
    threads = Threads(request_to(entry["ENGINE"] == OURS, queries))
    for line in sys.stdin:
        print(json.dumps(threads.run(**json.loads(line))), flush=True)
    # Nobody waits for what else has threads here.
    os._exit(0)


# -- In the process that compares ----------------------------------------------------------


class Subject:
    """A process that serves rounds. It ends when its standard input does."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **asked: float) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a subject has ended")
        found: dict[str, float] = json.loads(answer)
        return found

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()


@contextmanager
def pgbouncer(
    cluster: Cluster,
    connections: int = CONNECTIONS,
    patience: int = 120,
    mode: str = "transaction",
) -> Iterator[dict[str, str]]:
    """A PgBouncer in front of the server; where it answers, as Django's settings say it.

    `patience` is for how many seconds a query waits for a connection, `mode` its `pool_mode`.
    """
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    place = cluster.params()
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={cluster.socket_dir} port={place["port"]}
        [pgbouncer]
        listen_port = {place["port"]}
        unix_socket_dir = {folder}
        auth_type = trust
        auth_file = {folder}/users
        pool_mode = {mode}
        default_pool_size = {connections}
        query_wait_timeout = {patience}
        max_client_conn = {2 * THREADS}
        logfile = {folder}/log
        """.replace("        ", "")
    )
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(folder / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    try:
        deadline = time.monotonic() + 10
        while not (folder / f".s.PGSQL.{place['port']}").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer does not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield {"HOST": str(folder), "PORT": place["port"]}
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def missing(name: str) -> str:
    """Why a subject cannot be there; empty when it can."""
    if name == REAL and importlib.util.find_spec(REAL_POOL) is None:
        return "not installed: pip install -e '.[bench]'"
    if name == BOUNCER and not Path(PGBOUNCER).exists():
        return f"there is no {PGBOUNCER}: apt-get install pgbouncer"
    return ""


def database(name: str) -> str:
    """The database of a subject, by which the server tells whose connections it has."""
    return f"release_{list(SUBJECTS).index(name)}"


def start(cluster: Cluster, names: list[str], queries: int, stack: ExitStack) -> dict[str, Subject]:
    started = {}
    for name in names:
        cluster.execute(f"CREATE DATABASE {database(name)}")
        place = {**cluster.django(), "NAME": database(name), "HOST": cluster.socket_dir}
        if name == BOUNCER:
            place.update(stack.enter_context(pgbouncer(cluster)))
        entry = SUBJECTS[name]
        options = {**place.pop("OPTIONS"), **entry.get("OPTIONS", {})}
        whole = {**place, **entry, "OPTIONS": options}
        command = ["bench.release", "--queries", str(queries), "--serve", json.dumps(whole)]
        started[name] = stack.enter_context(Subject(*command))
    return started


def compare(
    cluster: Cluster, subjects: dict[str, Subject], pause: int, rounds: int, seconds: float
) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    open_now: dict[str, int] = {}
    for subject in subjects.values():
        subject.run(pause=pause / 1000, seconds=0.0)
    for _ in range(rounds):
        for name, subject in subjects.items():
            found[name].append(subject.run(pause=pause / 1000, seconds=seconds))
            open_now[name] = cluster.backends(dbname=database(name))

    def median(key: str) -> dict[str, float]:
        return {
            name: statistics.median(result[key] for result in results)
            for name, results in found.items()
        }

    rate, cpu = median("rate"), median("cpu")
    rows: list[list[object]] = [["requests a second", *rate.values()]]
    if DJANGO in rate:
        rows.append(["times Django's pool", *[each / rate[DJANGO] for each in rate.values()]])
    if pause:
        possible = THREADS / (pause / 1000)
        rows.append([f"of the possible {possible:.0f}", *[r / possible for r in rate.values()]])
    rows.append(["CPU a request, µs", *cpu.values()])
    if PERSISTENT in cpu:
        extra = {name: each - cpu[PERSISTENT] for name, each in cpu.items()}
        rows.append(["  more than persistent, µs", *extra.values()])
        if REAL in extra:
            ratios = [each / extra[REAL] for each in extra.values()]
            rows.append(["  of what real-pool costs more", *ratios])
    rows.append(["connections on the server", *open_now.values()])
    title = f"{THREADS} threads, {CONNECTIONS} connections, {pause} ms of other work"
    table(title, ["", *subjects], rows)
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round (default 1)")
    parser.add_argument("--work", type=int, nargs="+", default=[0, 10, 50, 200], metavar="MS")
    parser.add_argument("--queries", type=int, default=2, help="of a request (default 2)")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet()
    if arguments.serve:
        serve_rounds(json.loads(arguments.serve), arguments.queries)
    print(f"Django {django.get_version()}")
    names = []
    for name in arguments.only:
        if why := missing(name):
            print(f"{name} is left out, {why}")
        else:
            names.append(name)
    with Cluster(max_connections=THREADS + 60) as cluster, ExitStack() as stack:
        subjects = start(cluster, names, arguments.queries, stack)
        for pause in arguments.work:
            compare(cluster, subjects, pause, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
