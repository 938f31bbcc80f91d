"""docs/start.md, followed by a stranger in a project that `startproject` has made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Server, free_port
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs" / "start.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    text
    for text in re.findall(r"^python manage\.py (.+)$", PAGE, re.MULTILINE)
    if "--watch" not in text  # which does not end
]


def block(start: str) -> str:
    (found,) = [text for text in BLOCKS if start in text]
    return found


class Site:
    """A project on disk, with the settings of the page."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.port = free_port()
        self.environ = {
            **{key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
            "XDG_RUNTIME_DIR": str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        self.run("-m", "django", "startproject", "site1", str(folder))
        settings = folder / "site1" / "settings.py"
        text = settings.read_text()
        for name in ("INSTALLED_APPS", "MIDDLEWARE"):
            ours = re.search(rf"^{name} = \[\n(.*?)    # \.\.\. yours\n", PAGE, re.M | re.DOTALL)
            assert ours is not None
            text = text.replace(f"{name} = [\n", f"{name} = [\n{ours[1]}")
        # As the page says of what was read from a URL; the password and so on are the server's.
        database = {"NAME": server.params()["dbname"], **server.django()}
        engine = block('DATABASES["default"]["ENGINE"]')
        text += f"\nDATABASES = {{'default': {database!r}}}\n{engine}"
        (pool,) = re.findall(r'`"OPTIONS": (\{"pool": \{"max_size": 2.+?\}\})`', PAGE)
        text += f"\nDATABASES['default']['OPTIONS'] |= {pool}\n"
        settings.write_text(text)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def manage(self, command: str) -> str:
        done = self.run("manage.py", *command.split())
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=200) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code

    def answers(self) -> bool:
        try:
            return self.get("pool/live") == 200
        except OSError:
            return False


def view(name: str, after: str, indent: str) -> str:
    """The view of the page, that waits for the file `after` instead of for 20 seconds."""
    told = block("def slow(request)")
    (line,) = re.findall(r"^        time\.sleep\(20\).*\n", told, re.MULTILINE)
    waits = (
        f"{indent}pathlib.Path(f'{name}-{{threading.get_ident()}}').touch()\n"
        f"{indent}while not pathlib.Path('{after}').exists():\n"
        f"{indent}    time.sleep(0.1)\n"
    )
    return "import pathlib\nimport threading\n" + told.replace(line, waits).replace("slow", name)


@pytest.fixture
def site(tmp_path: Path, cluster: Server) -> Iterator[Site]:
    made = Site(tmp_path, cluster)
    views = view("slow", "end-slow", " " * 8) + view("quick", "end-quick", " " * 4)
    (tmp_path / "site1" / "views.py").write_text(views)
    ours = "    path('slow/', views.slow),\n    path('quick/', views.quick),\n]"
    urls = block("urlpatterns").replace("]", ours)
    (tmp_path / "site1" / "urls.py").write_text(f"from site1 import views\n{urls}")
    with made.log.open("w") as log:
        command = [sys.executable, "manage.py", "runserver", "--noreload", str(made.port)]
        server: Any = subprocess.Popen(
            command, cwd=tmp_path, env=made.environ, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(made.answers, "the site answers")
            yield made
        finally:
            server.terminate()
            server.wait(30)


def test_a_stranger_sees_who_holds_the_connections(site: Site) -> None:
    with ThreadPoolExecutor(1) as other:
        checked = other.submit(lambda: [site.manage(text) for text in COMMANDS if "check" in text])

        with ThreadPoolExecutor(3) as tabs:
            asked = [tabs.submit(site.get, "slow/") for _ in range(3)]
            wait_until(lambda: any(tab.done() for tab in asked), "one is told to come again")
            told = [site.manage(text) for text in COMMANDS if "poolstatus" in text]
            (site.folder / "end-slow").touch()
            assert sorted(tab.result() for tab in asked) == [200, 200, 503]

    assert len(checked.result()) == 2
    assert all("no issues" in text for text in checked.result())
    said = site.log.read_text()
    assert re.search(r"site1/views\.py:\d+ in slow", said), said
    assert "no connection became free within 5" in said
    assert len(told) == 3
    assert "site1/views.py" in told[1] and "server of 'default'" in told[1]
    assert "max_size" in told[2]


def test_without_the_transaction_nobody_waits(site: Site) -> None:
    with ThreadPoolExecutor(3) as tabs:
        asked = [tabs.submit(site.get, "quick/") for _ in range(3)]
        wait_until(lambda: len([*site.folder.glob("quick-*")]) == 3, "all three have queried")
        (site.folder / "end-quick").touch()
        assert [tab.result() for tab in asked] == [200, 200, 200]
