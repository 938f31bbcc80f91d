"""The folder of the files that processes share: it has to be this user's alone, and local."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .ledger import Unusable

SETTING = "CONNPOOL_HOST_DIR"
# Kept in memory and never cleaned up while the machine runs, and the same for all services of a
# host, also for those that have a /tmp of their own.
SHARED_MEMORY = Path("/dev/shm")
MOUNTS = Path("/proc/self/mounts")
# On these a lock is known to one machine alone, or to nobody.
REMOTE = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)


def default() -> Path:
    return SHARED_MEMORY / f"django-connpool-{os.getuid()}"


def prepare(path: Path) -> None:
    """Make it, with mode 0700, if it is missing. Raises Unusable where it cannot be used."""
    if not path.is_absolute():
        raise Unusable(f"{SETTING} has to be an absolute path, not {str(path)!r}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise Unusable(
            f"{path} cannot be made ({error.strerror}): set {SETTING} to a folder of this user's"
        ) from error
    if not stat.S_ISDIR(found.st_mode):  # a link is none: where it leads others may decide
        raise Unusable(f"{path} is not a folder: set {SETTING} to one")
    if found.st_uid != os.getuid():
        raise Unusable(
            f"{path} belongs to uid {found.st_uid}, this process runs as uid {os.getuid()}: "
            f"set {SETTING} to a folder of this user's"
        )
    if found.st_mode & 0o077:
        raise Unusable(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"chmod 700 {path}"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise Unusable(f"{path} cannot be written: chmod 700 {path}")
    kind = file_system(path)
    if kind in REMOTE or kind.startswith("fuse."):
        raise Unusable(
            f"{path} is on {kind}, where locks do not bind everybody: set {SETTING} to a folder "
            "on a disk of this machine, or in its memory"
        )


def file_system(path: Path) -> str:
    """The kind of the file system that it is on; empty when that is not known."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
        target = path.resolve()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        # The last of several on one place is the one that is seen.
        if len(place) >= len(best) and target.is_relative_to(place):
            best, kind = place, fields[2]
    return kind
