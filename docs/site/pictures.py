"""Make the pictures of poolstatus and of the page that README and docs show.

    python docs/site/pictures.py [FOLDER]

They are taken from the demo's site, under load. Needs the extra `demo`, selenium and Pillow
(`pip install -e '.[demo]' selenium pillow`), and Debian's packages `chromium` and
`chromium-driver`. Takes about three minutes. What is in the pictures is what the command and
the page have said, but for the folder of the clone, which is called /srv in them.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import itertools
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "testproject"
FOLDER = ROOT / "docs" / "pictures"
SHOWN_AS = "/srv"

WORKERS, THREADS = 2, 8
USUAL, RUSH = 5, 14  # visitors
QUIET_SECONDS, RUSH_SECONDS = 12, 6
RUSHES = 8
LONGEST_LOAD = 600  # seconds, should the script hang
TOKEN = "only for the minutes in which the pictures are made"

WIDTH = 820  # of the window in which the page is seen
SCALE = 1.5
LOANS = 2  # that are in the picture
COLOURS = 256
LARGEST = 100_000  # bytes
# Without rich's own frame, which fetches a font from elsewhere. Its own background: it is read on a
# light page and on a dark one.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  white-space: pre;
}}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


# -- The site, and who visits it ----------------------------------------------------------


def prepare(folder: str) -> None:
    """Set Django up for the sample site; what it has to say goes to this folder alone."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
        "DEBUG": "on",
        "DATABASE_URL": "",  # the server of the sample itself
        "CONNPOOL_STATUS_DIR": folder,
        "CONNPOOL_TOKEN": TOKEN,
    }
    sys.path.insert(0, str(PROJECT))
    import django

    django.setup()


@contextmanager
def visitors(port: int, count: int) -> Iterator[None]:
    """So many of them, who go on asking while the block runs."""
    from demo.load import Load
    from demo.mix import visits

    ways = itertools.cycle(visits(2000))
    with Load(port, ways, concurrency=count, seconds=LONGEST_LOAD).running():
        yield


@contextmanager
def rushes(port: int, count: int) -> Iterator[None]:
    """So many rushes of visitors, one after the other; the block runs in the last of them."""
    with visitors(port, USUAL):
        for left in reversed(range(count)):
            time.sleep(QUIET_SECONDS)
            with visitors(port, RUSH):
                time.sleep(RUSH_SECONDS)
                if not left:
                    yield


def without_this_machine(text: str) -> str:
    """The text, with the clone in another folder. Raises SystemExit if it tells more than that."""
    text = text.replace(str(PROJECT), SHOWN_AS)
    for secret in (str(ROOT), str(Path.home()), sys.prefix, socket.gethostname()):
        if re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text):
            raise SystemExit(f"{secret} would be in a picture.")
    return text


# -- The pictures -------------------------------------------------------------------------


def terminal(command: str, output: str) -> str:
    """An SVG of a terminal in which the command has been run."""
    from rich.console import Console
    from rich.text import Text

    lines = output.rstrip().split("\n")
    width = max(len(Text.from_ansi(line)) for line in lines) + 1
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True)
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        for line in lines:
            console.print(Text.from_ansi(line))
        return console.export_svg(title="", code_format=FRAME, unique_id="poolstatus")


def made_small(png: bytes) -> bytes:
    """The picture, in no more colours than it needs."""
    from PIL import Image

    small = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


class Browser:
    """Context manager: a Chromium that sends the token."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-dev-shm-usage",
            "disable-gpu",
            "hide-scrollbars",
        ):
            options.add_argument(f"--{argument}")
        self._driver = webdriver.Chrome(
            options, webdriver.ChromeService(shutil.which("chromedriver"))
        )

    def __enter__(self) -> Browser:
        self._tell("Network.enable")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._tell("Network.setExtraHTTPHeaders", headers=headers)
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        self._tell("Emulation.setEmulatedMedia", features=light)
        size = {"width": WIDTH, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._tell("Emulation.setDeviceMetricsOverride", **size)
        return self

    def __exit__(self, *exception: object) -> None:
        self._driver.quit()

    def open(self, address: str) -> None:
        self._driver.get(address)

    def picture(self) -> bytes:
        """A PNG of the page as it is now, down to the first loans of its first process."""
        self._run(HOLD_STILL, str(PROJECT), SHOWN_AS)
        without_this_machine(str(self._run("return document.body.innerText")))
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": self._run(END, LOANS), "scale": SCALE}
        return made_small(base64.b64decode(self._tell("Page.captureScreenshot", clip=clip)["data"]))

    def _run(self, script: str, *arguments: object) -> Any:
        return self._driver.execute_script(script, *arguments)

    def _tell(self, command: str, **how: Any) -> Any:
        return self._driver.execute_cdp_cmd(command, how)


# The page takes no more answers, and has the clone in another folder.
HOLD_STILL = """
window.fetch = () => new Promise(() => {});
const [folder, other] = arguments;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    walker.currentNode.data = walker.currentNode.data.replaceAll(folder, other);
}
"""
# Where the picture ends: below so many loans, or else below the first process.
END = """
const loans = document.querySelectorAll("section:first-of-type .loans li");
return (loans[Math.min(arguments[0], loans.length) - 1] || document.querySelector("section"))
    .getBoundingClientRect().bottom;
"""


def make(folder: Path, count: int) -> None:
    """Put both pictures into the folder."""
    from demo import site

    site.manage("migrate", "--verbosity", "0")
    site.manage("load_sample")
    with (
        site.listen(0) as listener,
        site.serve(listener, workers=WORKERS, threads=THREADS) as port,
        Browser() as browser,
    ):
        browser.open(f"http://127.0.0.1:{port}/pool/")
        with rushes(port, count):
            page = browser.picture()
            said = site.manage("poolstatus", "--loans", "--force-color")
    shown = terminal("manage.py poolstatus --loans", without_this_machine(said))
    (folder / "page.png").write_bytes(page)
    (folder / "poolstatus.svg").write_text(shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="FOLDER")
    parser.add_argument("--rushes", type=int, default=RUSHES, help="of visitors")
    arguments = parser.parse_args()
    if arguments.rushes < 1:
        parser.error("--rushes has to be 1 or more")
    for package in ("PIL", "gunicorn", "rich", "selenium"):
        if importlib.util.find_spec(package) is None:
            raise SystemExit(f"There is no {package}: pip install -e '.[demo]' selenium pillow")
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            raise SystemExit(f"There is no {program}: apt-get install chromium chromium-driver")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as status:
        prepare(status)
        from testproject.embedded import leave

        try:
            make(arguments.folder, arguments.rushes)
        finally:
            leave()
    for name in ("page.png", "poolstatus.svg"):
        size = (arguments.folder / name).stat().st_size
        print(f"{name}: {size:,} bytes")
        if size > LARGEST:
            raise SystemExit(f"{name} is too large: at most {LARGEST:,} bytes")


if __name__ == "__main__":
    main()
