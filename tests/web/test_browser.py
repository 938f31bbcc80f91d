"""The page in a real Chromium, by the driver that comes with it.

With `PAGE_SCREENSHOTS=/some/folder` pictures of it are put there, to be looked at.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer
from django.http import HttpResponse
from django.test import Client
from django.test.testcases import QuietWSGIRequestHandler
from django.utils.http import urlencode

from django_connpool import registry
from tests.databases import Databases
from tests.status.samples import loan, pool, process
from tests.testproject.processes import wait_until
from tests.web.conftest import TOKEN, Hands
from tests.web.helpers import everything_on_loan, somebody_waiting

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
EVIL = "<script>window.hacked = 1</script><img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed"),
    pytest.mark.skipif(not DRIVER, reason="chromedriver is not installed"),
]
selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")


class Browser:
    """A Chromium that has entered the token."""

    def __init__(self, site: str, scripts: bool = True) -> None:
        options = selenium.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not scripts:
            forbidden = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", forbidden)
        self.site = site
        self.driver = selenium.Chrome(options, selenium.ChromeService(DRIVER))
        self.driver.set_page_load_timeout(60)

    def enter(self) -> None:
        """Come to the page by the form for the token."""
        self.driver.get(f"{self.site}/pool/")
        self.find("input[name=token]").send_keys(TOKEN)
        self.find("form button").click()
        wait_until(lambda: self.has("main .summary"), "the page is there")
        self.complaints()  # that it was closed before

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def has(self, selector: str) -> bool:
        return bool(self.driver.find_elements("css selector", selector))

    @property
    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def is_wider_than_its_window(self) -> bool:
        return bool(self.run("return document.documentElement.scrollWidth > window.innerWidth"))

    def prefers(self, scheme: str) -> None:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def is_as_wide_as(self, pixels: int) -> None:
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """What the console has that is no mere note."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("WARNING", "SEVERE")
        ]

    def picture(self, name: str) -> None:
        if folder := os.environ.get("PAGE_SCREENSHOTS"):
            height = self.run("return document.documentElement.scrollHeight")
            width = self.run("return window.innerWidth")
            size = {"width": width, "height": min(height, 4000)}
            self.driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {**size, "deviceScaleFactor": 1, "mobile": width < 600},
            )
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def site(mounted: None) -> Iterator[str]:
    """The address of this process's site, served by threads."""
    server = ThreadedWSGIServer(("127.0.0.1", 0), QuietWSGIRequestHandler)
    server.set_app(WSGIHandler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browse(site: str) -> Iterator[Callable[..., Browser]]:
    """A function that opens the page in a browser of its own."""
    with ExitStack() as stack:

        def opened(**how: Any) -> Browser:
            browser = Browser(site, **how)
            stack.callback(browser.driver.quit)
            browser.enter()
            return browser

        yield opened


@pytest.fixture
def leaking(databases: Databases) -> Any:
    """A pool of which a request has kept a connection for longer than `leak_after`."""
    spare = databases.add(pool={"max_size": 3, "leak_after": 0.01})
    assert Client().get(f"/leak/{EVIL}").status_code == 200
    wait_until(lambda: spare.pool.snapshot()["loans"][0]["leak"], "the leak is noticed")
    return spare


def test_a_leak_is_shown_with_its_request_its_line_and_its_statement(
    leaking: Any, browse: Callable[..., Browser]
) -> None:
    browser = browse()
    row = browser.find("li.leak").text
    assert f"GET /leak/{EVIL}" in row
    assert "tests/web/urls.py" in row and "leak" in row
    assert "SELECT ? WHERE ? = %s" in row
    assert "geheim" not in browser.driver.page_source
    assert browser.run("return window.hacked") is None
    assert not browser.has("main img") and not browser.has("main script")
    assert browser.has("article svg path.in-use")
    assert browser.complaints() == []
    browser.picture("leak-light")


def test_it_works_without_scripts(leaking: Any, browse: Callable[..., Browser]) -> None:
    browser = browse(scripts=False)
    assert "leak" in browser.find("li.leak").text
    assert browser.has("article svg path.in-use")
    refresh = browser.find("head meta[http-equiv=refresh]")
    assert refresh.get_attribute("content") == "15; url=./"
    browser.find("details.events summary").click()
    assert "on loan for" in browser.find("details.events ul").text
    assert browser.complaints() == []


def test_it_goes_on_by_itself_and_leaves_open_what_was_opened(
    leaking: Any, browse: Callable[..., Browser]
) -> None:
    browser = browse()
    browser.find("details.events summary").click()
    with leaking.pool.connection() as conn:
        backend = str(conn.info.backend_pid)
        wait_until(lambda: backend in browser.text, "the new loan is shown")
    wait_until(lambda: backend not in browser.text, "it is gone")
    assert browser.find("details.events").get_attribute("open")
    assert browser.complaints() == []


def test_what_is_old_is_said_to_be_old(
    leaking: Any, browse: Callable[..., Browser], settings: Any
) -> None:
    browser = browse()
    settings.CONNPOOL_TOKEN = "another token that is long enough"
    wait_until(lambda: browser.has(".stale"), "it is said")
    assert "the site said 403. Trying on." in browser.find(".stale").text
    assert "leak" in browser.find("li.leak").text  # what was there is there
    settings.CONNPOOL_TOKEN = TOKEN
    wait_until(lambda: not browser.has(".stale"), "it goes on")


def test_it_is_dark_for_who_prefers_that_and_light_else(
    leaking: Any, browse: Callable[..., Browser]
) -> None:
    browser = browse()
    seen = {}
    for scheme in ("light", "dark"):
        browser.prefers(scheme)
        seen[scheme] = browser.run(
            "const bright = (colour) => colour.match(/\\d+/g).reduce((a, b) => +a + +b);"
            "const seen = getComputedStyle(document.body);"
            "return [bright(seen.backgroundColor), bright(seen.color)];"
        )
    assert seen["light"][0] > seen["light"][1]
    assert seen["dark"][0] < seen["dark"][1]
    browser.picture("leak-dark")


@pytest.mark.parametrize("pixels", [360, 800, 1920])
def test_it_fits_a_phone_and_a_wide_screen(
    leaking: Any, browse: Callable[..., Browser], hands: Hands, pixels: int
) -> None:
    browser = browse()
    browser.is_as_wide_as(pixels)
    assert not browser.is_wider_than_its_window()
    browser.picture(f"leak-{pixels}")


def test_it_answers_while_the_pool_is_exhausted(
    databases: Databases, browse: Callable[..., Browser], settings: Any
) -> None:
    settings.CONNPOOL_BUSY_AFTER = 0
    spare = databases.add(pool={"max_size": 2})
    with somebody_waiting(spare):
        browser = browse()
        assert "1 pool in trouble" in browser.text
        assert "busy: somebody has waited" in browser.find("article.trouble").text
        browser.picture("busy")
        assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("pixels", [360, 1400])
def test_a_hundred_pools_in_trouble_and_not_stay_readable(
    browse: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch, pixels: int, scheme: str
) -> None:
    monkeypatch.setattr("django_connpool.web.page.of_host", lambda: _crowd())
    browser = browse()
    browser.prefers(scheme)
    browser.is_as_wide_as(pixels)
    assert not browser.is_wider_than_its_window()
    assert "more that nobody uses at the moment" in browser.text
    assert browser.complaints() == []
    browser.picture(f"hundred-{pixels}-{scheme}")


def _crowd() -> Any:
    """Three processes with a hundred pools each, one of them stuck, one down, some at work."""
    from django_connpool.status.collect import Collected, Silence

    def past(most: int, waiting: int) -> list[list[float]]:
        return [
            [
                5.0 * ago,
                (ago * 7) % (most + 1),
                ago % 2,
                1,
                max(0, waiting - ago % 9),
                0.4,
                ago == 7,
            ]
            for ago in reversed(range(60))
            if not 20 < ago < 26
        ]

    def tenant(number: int, **changes: Any) -> Any:
        name = f"tenant_{number}"
        quiet = {"in_use": 0, "offered": 0, "waiting": 0, "history": [[0.0, 0, 0, 1, 0, 0.0, 0]]}
        return pool(**{"alias": name, "aliases": [name], "name": name, **quiet, **changes})

    loans = [
        loan(
            held=held,
            note=f"GET /shop/orders/{held}/",
            at="/srv/shop/views.py:88 in orders",
            statement="SELECT id, total FROM shop_order WHERE customer = %s ORDER BY placed_at",
            leak=held > 60,
            transaction="ACTIVE" if held > 60 else "INTRANS",
        )
        for held in (99.0, 61.5, 4.2)
    ]
    outage = {"kind": "refused", "since": 130.0, "failed": 1.5, "attempts": 12, "young": False}
    special = {
        3: tenant(3, in_use=3, max_size=4, loans=loans, history=past(4, 0)),
        41: tenant(41, in_use=2, max_size=2, waiting=7, longest_wait=8.2, loans=loans[:2])
        | {"history": past(2, 9)},
        57: tenant(57, size=0, last_error="connection refused", outage=outage, suspended=True)
        | {"events": [{"ago": 1.5, "times": 12, "text": "connecting failed: connection refused"}]},
    }
    pools = [special.get(number) or tenant(number) for number in range(100)]
    return Collected(
        [
            process(pools=pools, command="gunicorn shop.wsgi --workers 2"),
            process(pid=4712, pools=pools[4:]),
            process(pid=4713, pools=[]),
        ],
        [Silence(4714, "did not answer within 1 s")],
    )


class StrictPolicy:
    """A site's middleware whose policy is as strict as they come."""

    POLICY = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )

    def __init__(self, get_response: Callable[[Any], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> HttpResponse:
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = self.POLICY
        return response


@pytest.fixture
def strict(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.web.test_browser.StrictPolicy"]


def test_a_strict_policy_of_the_site_is_no_hindrance(
    strict: None, leaking: Any, browse: Callable[..., Browser]
) -> None:
    browser = browse()
    with leaking.pool.connection() as conn:
        backend = str(conn.info.backend_pid)
        wait_until(lambda: backend in browser.text, "the script works")
    assert browser.run("return getComputedStyle(document.body).maxWidth") != "none"
    assert browser.complaints() == []


@pytest.mark.django_db(transaction=True)
def test_a_superuser_presses_a_button(
    databases: Databases, site: str, hands: Hands, browse: Callable[..., Browser]
) -> None:
    spare = databases.add(pool={"max_size": 2})
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    with everything_on_loan(spare):
        browser = browse()
        name = site_settings.SESSION_COOKIE_NAME
        browser.driver.add_cookie({"name": name, "value": client.cookies[name].value})
        browser.driver.get(f"{site}/pool/")
        key = _key(spare)
        browser.find(f"#hands-{key} summary").click()
        browser.picture("hands")
        size = browser.find(f"#hands-{key} input[name=size]")
        size.clear()
        size.send_keys("5")
        browser.find(f"#hands-{key} button[value=resize]").click()
        wait_until(lambda: browser.has(".said.done"), "it is said what came of it")
    assert "It is <done>." in browser.find(".said").text
    assert hands.performed == [{"do": "resize", "pool": spare.pool.name, "size": 5}]
    assert "said=" not in browser.driver.current_url
    assert browser.complaints() == []


def _key(wrapper: Any) -> str:
    """What the page calls a pool of this process."""
    numbers = [number for number, (_, one) in enumerate(registry.live()) if one is wrapper.pool]
    return f"{os.getpid()}-{numbers[0]}"


def test_who_is_no_staff_is_told_how_to_get_in(site: str) -> None:
    browser = Browser(site)
    try:
        browser.driver.get(f"{site}/pool/?{urlencode({'said': 'x'})}")
        assert "This page is for staff" in browser.text
        browser.find("input[name=token]").send_keys("wrong")
        browser.find("form button").click()
        wait_until(lambda: "That is not the token." in browser.text, "it is said")
        browser.picture("closed")
    finally:
        browser.driver.quit()
