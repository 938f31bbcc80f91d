"""The page as it is sent: what is on it, that it is escaped, and that it brings nothing along."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from django_connpool.status.collect import Collected, Silence
from django_connpool.web import charts, page
from tests.status.samples import loan, pool, process
from tests.web.conftest import BEARER, Hands

MOMENTS = [[10.0, 1, 0, 2, 0, 0.0, 0], [5.0, 2, 1, 0, 3, 1.5, 2], [0.0, 2, 0, 1, 0, 0.0, 0]]


class Page(HTMLParser):
    """What a browser would make of it: its elements, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def got(path: str = "/pool/") -> Page:
    answer = Client().get(path, headers=BEARER)
    assert answer.status_code == 200
    return Page(answer.content.decode())


@pytest.fixture
def shows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that has the page show these processes."""

    def show(*processes: Any, **changes: Any) -> Page:
        found = Collected(list(processes), **changes)
        monkeypatch.setattr("django_connpool.web.page.of_host", lambda: found)
        return got()

    return show


def test_a_pool_at_work_is_told_of(spare: Any) -> None:
    with spare.pool.connection() as conn:
        backend = conn.info.backend_pid
        seen = got()
    assert "spare" in seen.text
    assert str(backend) in seen.text
    assert seen.count("svg") >= 2


def test_what_somebody_put_into_a_path_is_text(shows: Any) -> None:
    evil = "GET /<script>alert(1)</script>/\"'&\x1b[2J"
    seen = shows(
        process(
            command=f"gunicorn {evil}",
            host=evil,
            pools=[
                pool(
                    alias=evil,
                    aliases=[evil],
                    name=evil,
                    last_error=evil,
                    loans=[
                        loan(note=evil, at=evil, taken_at=evil, thread=evil, pinned=evil)
                        | {"statement": evil, "transaction": evil}
                    ],
                    events=[{"ago": 1.0, "times": 2, "text": evil}],
                    history=MOMENTS,
                )
            ],
        ),
        silent=[Silence(2, evil)],
        refused=[evil],
    )
    assert seen.text.count("<script>alert(1)</script>") >= 12
    assert [attributes for tag, attributes in seen.elements if tag == "script"] == [
        {"src": f"page.js?{page.django_connpool.__version__}", "defer": None}
    ]
    assert "\x1b" not in seen.text


def test_nothing_stands_in_the_page_that_a_strict_policy_forbids(shows: Any, hands: Hands) -> None:
    seen = shows(process(pools=[pool(loans=[loan()], history=MOMENTS)]))
    assert seen.count("style") == 0
    for _, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action"):
            assert "//" not in (attributes.get(name) or "")


def test_the_policy_of_the_page_is_strict_unless_the_site_has_its_own() -> None:
    answer = Client().get("/pool/", headers=BEARER)
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_what_is_well_is_said_in_a_sentence(shows: Any) -> None:
    assert "All is well: 1 pool in 1 process." in shows(process()).text
    assert "No pool yet: 0 pools in 1 process." in shows(process(pools=[])).text
    leaking = process(pools=[pool(loans=[loan(leak=True), loan()])])
    told = "Every pool serves: 1 pool in 1 process. 1 loan held for longer than leak_after."
    assert told in shows(leaking).text
    told = "No pool in trouble: 1 pool in 1 process. 1 pool suspended."
    assert told in shows(process(pools=[pool(suspended=True)])).text


def test_trouble_stands_first_and_in_the_title(shows: Any) -> None:
    stuck = pool(alias="b", aliases=["b"], max_size=1, loans=[loan(held=99.0)])
    seen = shows(process(pools=[pool(alias="a", aliases=["a"]), stuck]))
    assert "1 pool in trouble, of 2 pools in 1 process." in seen.text
    assert "the one connection has been on loan for more than 1m 39s" in seen.text
    assert "(1) Connection pools on web-1" in seen.text
    headings = re.findall(r"\b[ab]\b(?= *\n)", seen.text)
    cards = [attributes for tag, attributes in seen.elements if tag == "article"]
    assert [card.get("class") for card in cards] == ["trouble", None], headings


def test_an_outage_is_told_in_plain_words(shows: Any) -> None:
    outage = {"kind": "refused", "since": 130.0, "failed": 1.5, "attempts": 12, "young": False}
    seen = shows(process(pools=[pool(last_error="connection refused", outage=outage)]))
    assert (
        "Connecting has failed for 2m 10s (12 attempts, the last 1.5 s ago). "
        "The server, or the way to it, said: connection refused"
    ) in seen.text
    young = {**outage, "young": True}
    seen = shows(process(pools=[pool(last_error="connection refused", outage=young)]))
    assert "borrowers wait for it to end" in seen.text
    told = "No pool in trouble: 1 pool in 1 process. 1 pool could not connect at the last attempt."
    assert told in seen.text


def test_who_listens_is_told_and_why_nobody_can(shows: Any) -> None:
    listening = {
        **{"channels": ["orders"], "listeners": 2, "counts": False},
        **{"backend_pid": 77, "lost": None, "error": None},
    }
    seen = shows(process(pools=[pool(listening=listening)]))
    assert "listening beside the pool: backend 77 for 2 listeners to orders" in seen.text

    evil = {"backend_pid": None, "lost": 61.0, "error": "no <b>route</b>\x1b[2J", "counts": True}
    quiet = {"loans": [], "in_use": 0, "waiting": 0}
    some = [pool(aliases=[f"quiet{n}"], **quiet) for n in range(20)]
    seen = shows(process(pools=[*some, pool(**quiet, listening=listening | evil)]))
    assert "in the pool: 2 listeners without a connection for 1m 01s: no <b>route</b>" in seen.text
    assert "\x1b" not in seen.text
    assert seen.count("article") == 1  # it is not among the quiet ones
    assert "listening" not in shows(process(pools=[pool()])).text


def test_a_process_that_does_not_answer_is_told(shows: Any) -> None:
    seen = shows(process(), silent=[Silence(7, "did not answer within 1 s")])
    assert "pid 7 did not answer within 1 s" in seen.text


def test_one_of_an_earlier_version_is_shown_as_far_as_it_tells(shows: Any) -> None:
    old = pool(loans=[loan()], last_error="no")
    del old["offered"]
    assert "The server says no: no" in shows(process(pools=[old])).text


def test_a_hundred_pools_stay_readable(shows: Any) -> None:
    def tenant(number: int, **changes: Any) -> Any:
        name = f"tenant_{number}"
        quiet = {"in_use": 0, "waiting": 0, "history": [[0.0, 0, 0, 1, 0, 0.0, 0]]}
        return pool(**{"alias": name, "aliases": [name], "name": name, **quiet, **changes})

    pools = [tenant(number) for number in range(100)]
    pools[41] = tenant(41, loans=[loan()])
    pools[57] = tenant(57, max_size=1, loans=[loan(held=99.0)])
    seen = shows(process(pools=pools))
    assert seen.count("article") == 2
    assert "98 more that nobody uses at the moment" in seen.text
    assert all(f"tenant_{number}" in seen.text for number in range(100))


def test_many_loans_are_the_longest_and_a_number(shows: Any) -> None:
    loans = [loan(held=float(held), note=f"GET /{held}/") for held in range(60)]
    seen = shows(process(pools=[pool(max_size=100, loans=loans)]))
    assert "and 40 more, held for less long" in seen.text
    assert "GET /59/" in seen.text and "GET /40/" in seen.text
    assert "GET /39/" not in seen.text


@pytest.mark.parametrize("name", page.ASSETS)
def test_what_the_page_is_made_of_is_open_to_all(name: str) -> None:
    answer = Client().get(f"/pool/{name}")
    assert answer.status_code == 200
    assert answer["Content-Type"] == page.ASSETS[name]
    assert "max-age" in answer["Cache-Control"]
    assert Client().get(f"/pool/x{name}").status_code == 404


# -- The charts ---------------------------------------------------------------------------


def test_a_chart_has_gaps_where_nobody_has_looked() -> None:
    seen = charts.moments([[20.0, 1, 0, 0, 0, 0.0, 0], [0.0, 2, 0, 0, 0, 0.0, 0]])
    drawn = str(charts.connections(seen, 2))
    assert 'class="in-use" d="M275 48V24H280V48ZM295 48V0H300V48Z"' in drawn
    assert "at most 2 of 2 in use" in drawn


def test_a_chart_tells_in_words_who_waited_in_vain() -> None:
    drawn = str(charts.waiting(charts.moments(MOMENTS), 10))
    assert "at most 3 waiting, the longest wait 1.5 s; 2 timeouts" in drawn
    assert "V33.6H" in drawn  # 3 of 10
    assert drawn.count("<rect") == 1


def test_a_chart_of_nonsense_is_empty() -> None:
    assert charts.moments([[9999.0, 1, 0, 0, 0, 0.0, 0], [], [1.0]]) == {}
    assert "<path" not in str(charts.connections({}, 0))


# -- In the admin -------------------------------------------------------------------------


@pytest.fixture
def staff(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("somebody", is_staff=True))
    return client


def test_the_page_is_an_entry_of_the_admin(staff: Client) -> None:
    index = Page(staff.get("/admin/").content.decode())
    links = [attributes.get("href") for tag, attributes in index.elements if tag == "a"]
    assert "/admin/django_connpool/pool/" in links
    assert "Connection pools" in index.text
    assert b"Connection pools" in staff.get("/admin/django_connpool/pool/").content
    for name in (*page.ASSETS, "status.json"):
        assert staff.get(f"/admin/django_connpool/pool/{name}").status_code == 200
    assert staff.get("/admin/django_connpool/pool/add/").status_code == 404


def test_the_admin_asks_strangers_to_log_in() -> None:
    answer = Client().get("/admin/django_connpool/pool/")
    assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/admin/login/")


def test_in_the_admin_a_superuser_acts(staff: Client, hands: Hands) -> None:
    command = {"do": "drain", "pid": "1", "pool": "spare"}
    assert staff.post("/admin/django_connpool/pool/act", command).status_code == 403
    User.objects.update(is_superuser=True)
    answer = staff.post("/admin/django_connpool/pool/act", command, follow=True)
    assert b"It is &lt;done&gt;." in answer.content


@pytest.mark.django_db
def test_the_entry_of_the_admin_is_nothing_in_the_database() -> None:
    from django.apps import apps

    assert list(apps.get_app_config("django_connpool").get_models()) == []
    assert [model for model in admin.site._registry if model.__name__ == "Pool"]
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    call_command("dumpdata", "django_connpool", verbosity=0)
