"""Where the sockets of the running processes lie, and which belong to this project."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from django_connpool.status import origin

NAME = "django-connpool"
SUFFIX = ".sock"  # of the socket on which a process tells what its pools do
HAND = ".hand"  # of the one on which it is told what to do with them; see hands.py
# What fits in sockaddr_un beside the closing NUL.
MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
SAID_SECONDS = 600.0  # in which one process says for all that a directory cannot be used
LONGEST_SOCKET_NAME = f"4194304-{'p' * 5}{'k' * 4}{'c' * 4}{SUFFIX}"
# The name tells whose it is before anybody is asked, in letters enough not to meet by chance.
# Those of earlier versions were the pid alone.
_SOCKET_NAME = re.compile(
    r"(?P<pid>[0-9]+)(-(?P<project>[a-z2-7]{5})(?P<kernel>[a-z2-7]{4})(?P<container>[a-z2-7]{4}))?"
    + f"({re.escape(SUFFIX)}|{re.escape(HAND)})",
    re.ASCII,
)


class UnsafeDirectory(Exception):
    """The status directory cannot be used; the text says which, why, and what to do."""


@dataclass(frozen=True, order=True)
class Name:
    """What a socket's name tells; the parts are empty in one of an earlier version."""

    pid: int
    project: str
    kernel: str
    container: str

    @property
    def is_of_this_project(self) -> bool:
        return self.project in ("", _brief_project())

    @property
    def is_of_this_kernel(self) -> bool:
        """Whether that nobody listens means that the process is gone.

        A folder may be shared with another kernel (a virtual machine's, by NFS), and then a socket
        refuses whoever is not on the same one, however alive its process is.
        """
        return self.kernel in ("", _brief_kernel())


def candidates() -> list[Path]:
    """Where status sockets may be, the preferred place first.

    With `CONNPOOL_STATUS_DIR` set that is the only place. Without it there are several, because
    a service and the shell that asks about it often disagree on `XDG_RUNTIME_DIR`.
    """
    configured = getattr(settings, "CONNPOOL_STATUS_DIR", None)
    if configured:
        return [Path(configured)]
    uid = os.getuid()
    runtime = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]
    found = [Path(base) / NAME for base in runtime if os.path.isabs(base) and os.path.isdir(base)]
    found.append(Path(tempfile.gettempdir()) / f"{NAME}-{uid}")
    return list(dict.fromkeys(found))


def prepare() -> Path:
    """The directory to serve from, made with mode 0700 when it is missing.

    Raises `UnsafeDirectory` when no candidate can be used.
    """
    refusals = []
    for path in candidates():
        try:
            _make(path)
            verify(path)
        except UnsafeDirectory as refusal:
            refusals.append(str(refusal))
        else:
            return path
    raise UnsafeDirectory("; ".join(refusals))


def verify(path: Path) -> None:
    """Raise `UnsafeDirectory` unless `path` is a private directory of this user.

    Raises `FileNotFoundError` when there is nothing at `path`.
    """
    _verify_name(path)
    # lstat: a link planted in a shared temporary directory would pass as what it points to.
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeDirectory(f"{path} is a symbolic link: remove it, or name its target")
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeDirectory(f"{path} is not a directory: remove it")
    if found.st_uid != os.getuid():
        way = "run as that user, or set CONNPOOL_STATUS_DIR to a directory of your own"
        raise UnsafeDirectory(
            f"{path} belongs to uid {found.st_uid}, this process runs as uid {os.getuid()}: "
            + (_advice(path) if found.st_mode & stat.S_ISVTX else way)
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise UnsafeDirectory(f"{path} is open to other users (mode {mode:04o}): {_advice(path)}")


def socket_path(directory: Path, pid: int) -> Path:
    """The socket of the process `pid` of this project, here."""
    here = _brief_project() + _brief_kernel() + origin.brief(origin.container(), 4)
    return directory / f"{pid}-{here}{SUFFIX}"


def sockets(place: Path, suffix: str = SUFFIX) -> list[tuple[Name, Path]]:
    """The sockets in a directory that is verified, with what their names tell."""
    named = [(socket_name(path), path) for path in place.iterdir() if path.suffix == suffix]
    return [(name, path) for name, path in named if name is not None and path.is_socket()]


def socket_name(path: Path) -> Name | None:
    """What the name of a socket tells; None when it is not named like one."""
    found = _SOCKET_NAME.fullmatch(path.name)
    if found is None:
        return None
    parts = found.groupdict(default="")
    return Name(int(parts["pid"]), parts["project"], parts["kernel"], parts["container"])


def was_said(text: str) -> bool:
    """Whether a process of this user has asked the same in the last `SAID_SECONDS`.

    It is kept as the age of an empty file in the temporary directory. Never raises.
    """
    path = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}-{origin.brief(text, 10)}.said"
    try:
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > SAID_SECONDS:
                path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return True
    except OSError:
        return False
    return False


def _brief_project() -> str:
    return origin.brief(origin.project(), 5)


def _brief_kernel() -> str:
    return origin.brief(origin.kernel(), 4)


def _advice(path: Path) -> str:
    """What to do about a directory that others can enter."""
    try:
        is_for_sockets = all(socket_name(entry) for entry in path.iterdir())
    except OSError:
        is_for_sockets = False
    if is_for_sockets and not path.lstat().st_mode & stat.S_ISVTX:
        return f"chmod 700 {path}"
    # Others use it, perhaps all of them: /tmp, or a home.
    return f"set CONNPOOL_STATUS_DIR to a directory inside it, {path / 'connpool'} for instance"


def _make(path: Path) -> None:
    _verify_name(path)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UnsafeDirectory(f"{path} cannot be made: {error.strerror}") from error


def _verify_name(path: Path) -> None:
    if not path.is_absolute():
        raise UnsafeDirectory(
            f"CONNPOOL_STATUS_DIR = {str(path)!r} is relative:"
            " it has to be an absolute path, as processes have different working directories"
        )
    length = len(os.fsencode(path / LONGEST_SOCKET_NAME))
    if length > MAX_SOCKET_PATH_BYTES:
        raise UnsafeDirectory(
            f"{path} is too long for a Unix socket ({length} bytes with the socket's name,"
            f" {MAX_SOCKET_PATH_BYTES} fit): set CONNPOOL_STATUS_DIR to a shorter path"
        )
