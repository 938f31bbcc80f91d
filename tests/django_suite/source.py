"""The sources of the Django that is installed: its tests come with the sdist only."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import django


def suite(cache: Path) -> Path:
    """Return the folder `tests` of the installed Django's sdist, downloaded once into `cache`.

    Raises subprocess.CalledProcessError when the package index does not have it.
    """
    version = django.get_version()
    folder = cache / f"django-{version}"
    if not folder.exists():
        _unpack(_download(version, cache), cache, folder)
    return folder / "tests"


def _download(version: str, cache: Path) -> Path:
    sdists = cache / "sdist"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    wanted = ["--no-binary", ":all:", "--dest", str(sdists), f"django=={version}"]
    subprocess.run([*command, *wanted], check=True)
    (sdist,) = (
        path
        for path in sdists.iterdir()
        if path.name.lower() in (f"django-{version}.tar.gz", f"django-{version}.zip")
    )
    return sdist


def _unpack(sdist: Path, cache: Path, folder: Path) -> None:
    unpacking = cache / "unpacking"
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacking, filter="data")
    # Its name is Django-4.2 or django-5.1; and only a folder that is whole gets the final one.
    (top,) = (path for path in unpacking.iterdir() if path.name.lower() == folder.name)
    top.rename(folder)
    unpacking.rmdir()
