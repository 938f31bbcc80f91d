"""The pictures that README and the docs show: light, told in words, and nothing of a machine's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs import PAGES, name

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "site" / "pictures.py"
MADE = {"page.png", "poolstatus.svg"}

SHOWN = re.compile(r"!\[([^]]*)\]\(([^()\s]+)\)")
LARGEST = 100_000  # bytes
PLACES = re.compile(rb"/(?:home|root|tmp|Users|var|mnt)/|\bhttps?://(?!www\.w3\.org/)")


def shown() -> list[tuple[Path, Path, str]]:
    """Each page with each picture that it shows, and the words for who does not see it."""
    return [
        (page, (page.parent / target).resolve(), told)
        for page in PAGES
        for told, target in SHOWN.findall(page.read_text())
    ]


PICTURES = sorted({picture for _, picture, _ in shown()})


def test_each_picture_is_shown_somewhere() -> None:
    assert sorted((ROOT / "docs" / "pictures").iterdir()) == PICTURES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_picture_is_told_in_words(page: Path) -> None:
    assert [told for at, _, told in shown() if at == page and len(told.split()) <= 5] == []


@pytest.mark.parametrize("picture", PICTURES, ids=name)
def test_a_picture_is_light(picture: Path) -> None:
    assert picture.stat().st_size < LARGEST


@pytest.mark.parametrize("picture", PICTURES, ids=name)
def test_a_picture_fetches_nothing_and_names_no_place_of_a_machine(picture: Path) -> None:
    if picture.suffix == ".svg":
        assert PLACES.findall(picture.read_bytes()) == []
        assert b"<script" not in picture.read_bytes()
    else:
        assert picture.suffix == ".png"
        assert chunks(picture) <= {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # no texts


def chunks(png: Path) -> set[bytes]:
    """The kinds of parts that the file is made of."""
    data, found, at = png.read_bytes(), set(), 8
    while at < len(data):
        found.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def test_a_place_of_a_machine_is_seen() -> None:
    assert PLACES.search(b"<text>at /home/eve/shop/views.py:3</text>")
    assert PLACES.search(b'url("https://fonts.example.com/x.woff")')
    assert not PLACES.search(b'xmlns="http://www.w3.org/2000/svg" at /srv/shop/views.py:3')


def test_readme_shows_the_pictures_that_the_script_makes() -> None:
    readme = {Path(target).name for _, target in SHOWN.findall((ROOT / "README.md").read_text())}
    assert readme == MADE


@pytest.mark.page
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.skipif(not shutil.which("chromedriver"), reason="chromedriver is not installed")
def test_the_script_makes_them(tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="tox's environment `page` has it")
    pytest.importorskip("PIL", reason="tox's environment `page` has it")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rushes", "1", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == MADE
    terminal = (tmp_path / "poolstatus.svg").read_text()
    assert "poolstatus" in terminal and "gunicorn" in terminal and "/srv/shop/" in terminal
