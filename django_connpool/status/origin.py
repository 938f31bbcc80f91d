"""Where a process comes from: its project, and the machine and container it runs in."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sys
from pathlib import Path

from django.conf import settings


def project() -> str:
    """The project of this process, the same for each of its commands and servers.

    `CONNPOOL_PROJECT` if it is set, else `BASE_DIR` (or, without one, the folder of the settings)
    and the package of the settings: `shop.settings.production` and `shop.settings.local` are one
    project. Empty for settings without either.
    """
    chosen = getattr(settings, "CONNPOOL_PROJECT", None)
    if chosen:
        return str(chosen)
    module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    base = getattr(settings, "BASE_DIR", None) or _folder(module)
    package = module.partition(".")[0] if "." in module else ""
    return ":".join(part for part in (str(base or ""), package) if part)


def kernel() -> str:
    """What tells the running kernel from others that may share a folder with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def container() -> str:
    """What tells two processes of one kernel apart that have the same pid."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return ""


def brief(text: str, length: int) -> str:
    """`text` as so many letters and digits, 5 bits each."""
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return base64.b32encode(digest).decode().lower()[:length]


def _folder(module: str) -> Path | None:
    """The folder that holds the settings' topmost package, or the module if it is in none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return None
    path = Path(file).resolve()
    parts = module.count(".") + (path.name == "__init__.py")
    return path.parents[min(parts, len(path.parents) - 1)]
