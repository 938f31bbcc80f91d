"""The sources of a package that is installed: its tests come with the sdist only."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import django


def suite(cache: Path) -> Path:
    """Return the folder `tests` of the installed Django's sdist, downloaded once into `cache`.

    Raises subprocess.CalledProcessError when the package index does not have it.
    """
    return sources("django", django.get_version(), cache) / "tests"


def sources(project: str, version: str, cache: Path) -> Path:
    """Return the folder of a project's sdist, downloaded once into `cache`."""
    folder = cache / f"{project}-{version}"
    if not folder.exists():
        _unpack(_download(project, version, cache), cache, folder)
    return folder


def _download(project: str, version: str, cache: Path) -> Path:
    sdists = cache / "sdist"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    wanted = ["--no-binary", project, "--dest", str(sdists), f"{project}=={version}"]
    subprocess.run([*command, *wanted], check=True)
    (sdist,) = (path for path in sdists.iterdir() if is_sdist(path.name, project, version))
    return sdist


def is_sdist(name: str, project: str, version: str) -> bool:
    """Whether a file is a project's: it begins with Django-4.2, django-5.1 or django_silk-5.6."""
    return _plain(name) == _plain(f"{project}-{version}.tar.gz")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+(?=[a-z])", "_", name.lower())


def _unpack(sdist: Path, cache: Path, folder: Path) -> None:
    unpacking = cache / "unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)  # of a run that was ended in the middle
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacking, filter="data")
    # Only a folder that is whole gets the final name.
    (top,) = unpacking.iterdir()
    top.rename(folder)
    unpacking.rmdir()
