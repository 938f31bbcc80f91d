"""What is released: the wheel and the sdist, as `python -m build` makes them, and their types."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_connpool"
CONSUMER = Path(__file__).with_name("consumer.py")
VERSION = "9.8.7"
LARGEST_WHEEL = 400_000  # bytes
LARGEST_SDIST = 1_300_000

pytestmark = pytest.mark.package
for tool in ("build", "twine", "check_wheel_contents", "mypy", "pyright"):
    pytest.importorskip(tool, reason="tox's environment `package` has it")


class Built(NamedTuple):
    """The files of a release, and the wheel that was built without the sdist."""

    sdist: Path
    wheel: Path
    direct: Path


def run(*args: object, cwd: Path, python: str | Path = sys.executable) -> str:
    """What Python says, which has to end well. It knows nothing of this project's folder."""
    done = subprocess.run(
        [str(python), *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_as_a_clone(source: Path) -> None:
    """The files that git would have of this folder, in a clone with a tag."""

    def git(*args: str, cwd: Path = source) -> str:
        me = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *me, *args], cwd=cwd, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    git("tag", f"v{VERSION}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    source = tmp_path_factory.mktemp("source")
    copy_as_a_clone(source)
    dist, direct = source / "dist", source / "direct"
    # Without --wheel it builds the sdist first, and the wheel from that.
    run("-m", "build", "--no-isolation", "--outdir", dist, cwd=source)
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", direct, cwd=source)
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    (other,) = direct.glob("*.whl")
    return Built(sdist, wheel, other)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of somebody who has installed the wheel and what it requires, no more."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run("-m", "pip", "install", "--quiet", built.wheel, cwd=folder, python=python)
    return python


# -- The files ----------------------------------------------------------------------------


def test_the_files_have_the_version_of_the_tag(built: Built) -> None:
    assert built.sdist.name == f"django_connpool-{VERSION}.tar.gz"
    assert built.wheel.name == f"django_connpool-{VERSION}-py3-none-any.whl"


def test_an_index_would_take_them(built: Built) -> None:
    run("-m", "twine", "check", "--strict", built.sdist, built.wheel, cwd=built.sdist.parent)


def test_the_wheel_has_no_common_mistake(built: Built) -> None:
    run("-m", "check_wheel_contents", built.wheel, cwd=built.wheel.parent)


def test_the_wheel_is_the_same_with_and_without_the_sdist(built: Built) -> None:
    assert built.wheel.read_bytes() == built.direct.read_bytes()


def test_the_files_are_small(built: Built) -> None:
    assert built.wheel.stat().st_size < LARGEST_WHEEL
    assert built.sdist.stat().st_size < LARGEST_SDIST


def test_the_wheel_has_all_that_is_no_code_and_no_tests(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    others = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert {"django_connpool/contrib/grafana.json", "django_connpool/web/files/page.html"} < others
    assert others <= names
    assert {name.split("/")[0] for name in names} == {
        "django_connpool",
        f"django_connpool-{VERSION}.dist-info",
    }


def test_the_sdist_has_what_one_needs_to_test_and_to_read(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "tox.ini", "docs/options.md"} < names
    assert {"tests/conftest.py", "testproject/manage.py", "bench/site.py"} < names
    assert not {name for name in names if name.startswith((".ci", ".github/", ".git/"))}


# -- At a user's --------------------------------------------------------------------------


def test_the_wheel_alone_runs(installed: Path, tmp_path: Path) -> None:
    script = "import django_connpool as it; print(it.__version__, it.__file__)"
    version, file = run("-c", script, cwd=tmp_path, python=installed).split()
    assert version == VERSION
    assert Path(file).is_relative_to(installed.parents[1])


def test_a_users_mypy_sees_the_types(installed: Path, tmp_path: Path) -> None:
    shutil.copy(CONSUMER, tmp_path)
    alone = ("--strict", "--config-file=", "--cache-dir", tmp_path / "cache")
    said = run("-m", "mypy", *alone, "--python-executable", installed, CONSUMER.name, cwd=tmp_path)
    assert said.startswith("Success: no issues found in 1 source file")


def test_a_users_pyright_sees_the_types(installed: Path, tmp_path: Path) -> None:
    shutil.copy(CONSUMER, tmp_path)
    config = {"typeCheckingMode": "strict", "include": [CONSUMER.name]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    said = run("-m", "pyright", "--pythonpath", installed, cwd=tmp_path)
    assert "\n0 errors, 0 warnings" in f"\n{said}"


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_user_is_told_of_a_wrong_type(checker: str, installed: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "import django_connpool\ndjango_connpool.release(17)\ndjango_connpool.nothing\n"
    )
    args = {
        "mypy": ("--config-file=", "--cache-dir", tmp_path / "cache", "--python-executable"),
        "pyright": ("--pythonpath",),
    }[checker]
    with pytest.raises(AssertionError) as told:
        run("-m", checker, *args, installed, "wrong.py", cwd=tmp_path)
    assert "wrong.py:2" in str(told.value)
