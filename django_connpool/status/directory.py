from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from django.conf import settings

NAME = "django-connpool"
SUFFIX = ".sock"
# What fits in sockaddr_un beside the closing NUL.
MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_LONGEST_SOCKET_NAME = f"4194304{SUFFIX}"


class UnsafeDirectory(Exception):
    """The status directory cannot be used; the text says which, why, and what to do."""


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
        raise UnsafeDirectory(
            f"{path} belongs to uid {found.st_uid}, this process runs as uid {os.getuid()}:"
            " run as that user, or set CONNPOOL_STATUS_DIR to a directory of your own"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise UnsafeDirectory(f"{path} is open to other users (mode {mode:04o}): chmod 700 {path}")


def socket_path(directory: Path, pid: int) -> Path:
    """The socket of the process `pid`."""
    return directory / f"{pid}{SUFFIX}"


def socket_pid(path: Path) -> int | None:
    """The process a socket belongs to, by its name; None when it is not named like one."""
    if path.suffix == SUFFIX and path.stem.isascii() and path.stem.isdigit():
        return int(path.stem)
    return None


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
    length = len(os.fsencode(path / _LONGEST_SOCKET_NAME))
    if length > MAX_SOCKET_PATH_BYTES:
        raise UnsafeDirectory(
            f"{path} is too long for a Unix socket ({length} bytes with the socket's name,"
            f" {MAX_SOCKET_PATH_BYTES} fit): set CONNPOOL_STATUS_DIR to a shorter path"
        )
