from __future__ import annotations

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_connpool

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_connpool"
METADATA = ("pyproject.toml", "README.md", "LICENSE")
# asgiref comes with Django.
RUNTIME = {"asgiref", "django", "psycopg"}

WITHOUT_DJANGO = """
import sys
sys.modules["django"] = None
import django_connpool.pool
"""

# As where nothing is installed: psycopg is not asked for a version.
WITHOUT_METADATA = """
import django_connpool
print(django_connpool.__version__)
"""


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python as someone would who has configured nothing."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def copy_to(source: Path) -> None:
    """What else lies in a developer's folder has no say in what is built."""
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/urls.py",
        "testproject/manage.py",
    ):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    copy_to(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    source = tmp_path_factory.mktemp("source")
    copy_to(source)
    built = run("-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=source)
    assert built.returncode == 0, built.stderr
    (path,) = (source / "dist").iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.once
def test_the_wheel_is_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected


@pytest.mark.once
def test_the_wheel_says_that_it_is_typed_and_brings_its_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "django_connpool/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_version_is_that_of_what_is_installed() -> None:
    assert django_connpool.__version__ == importlib.metadata.version("django-connpool")


def test_a_copy_of_the_folder_alone_has_no_version_and_works(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name)
    script = "import sys; sys.path[:0] = [sys.argv[1]]\n" + WITHOUT_METADATA
    done = run("-S", "-c", script, str(tmp_path), cwd=tmp_path)
    assert done.stdout == "unknown\n", done.stderr


def git(*args: str, cwd: Path) -> None:
    me = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *me, *args], cwd=cwd, capture_output=True, timeout=60, check=True)


@pytest.mark.once
@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
@pytest.mark.parametrize(
    ("tag", "version"),
    [("v3.2.1", r"3\.2\.1"), ("v3.2.1rc1", r"3\.2\.1rc1"), (None, r"0\.1\.dev1\+g[0-9a-f]+")],
)
def test_a_clone_has_the_version_of_its_tag(tag: str | None, version: str, source: Path) -> None:
    git("init", "-q", cwd=source)
    git("add", ".", cwd=source)
    git("commit", "-q", "-m", "all", cwd=source)
    if tag:
        git("tag", tag, cwd=source)
    said = run("-m", "hatchling", "version", cwd=source)
    assert re.fullmatch(version, said.stdout.strip()), said.stdout + said.stderr


def test_a_folder_that_is_no_clone_can_be_built(metadata: email.message.Message) -> None:
    assert metadata["Version"] == "0.1.dev0"


def test_a_user_has_to_install_django_and_psycopg_only(metadata: email.message.Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == ["django>=4.2", "psycopg>=3.2"]


def test_the_pool_works_without_django() -> None:
    done = run("-W", "error", "-c", WITHOUT_DJANGO, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_needs_no_settings() -> None:
    done = run("-W", "error", "-c", "import django_connpool, django_connpool.signals", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports absolutely, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def test_the_package_imports_only_what_it_requires() -> None:
    allowed = set(sys.stdlib_module_names) | RUNTIME | {"django_connpool"}
    strangers = {
        path.relative_to(ROOT).as_posix(): unknown
        for path in PACKAGE.rglob("*.py")
        if "contrib" not in path.parts and (unknown := imported(path) - allowed)
    }
    assert strangers == {}
