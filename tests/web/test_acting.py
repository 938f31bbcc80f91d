"""What the buttons of the page do, with a stand-in for the hands."""

from __future__ import annotations

import os
import re
from html import escape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_connpool.status.collect import Collected
from django_connpool.status.hands import VERBS
from django_connpool.web import acting
from tests.status.samples import loan, pool, process
from tests.web.conftest import Hands

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    """A superuser's."""
    user = User.objects.create_superuser("root")
    client = Client()
    client.force_login(user)
    return client


def said(client: Client, **form: Any) -> str:
    """What the page says after a button."""
    answer = client.post("/pool/act", form, follow=True)
    found = re.search(r'<p class="said (\w+)" role="status">(.*?)</p>', answer.content.decode())
    assert found
    return f"{found[1]}: {found[2]}"


def test_a_pool_of_this_process_is_acted_on_here(client: Client, hands: Hands) -> None:
    text = said(client, do="drain", pid=os.getpid(), pool="spare")
    assert text == "done: It is &lt;done&gt;."
    assert hands.performed == [{"do": "drain", "pool": "spare"}]
    assert hands.sent == []


def test_one_of_another_process_is_acted_on_there(client: Client, hands: Hands) -> None:
    hands.answer = {"ok": False, "text": "It is closed."}
    assert said(client, do="resize", pid=1, pool="spare", size="7") == "failed: It is closed."
    assert hands.sent == [(1, {"do": "resize", "pool": "spare", "size": 7})]


@pytest.mark.parametrize("deed", [deed for deed in VERBS if deed != "cancel"])
def test_each_deed_is_a_button(client: Client, hands: Hands, spare: Any, deed: str) -> None:
    spare.pool.suspend() if deed == "resume" else None
    assert f'name="do" value="{deed}"'.encode() in client.get("/pool/").content
    assert said(client, do=deed, pid=os.getpid(), pool="spare", size="3").startswith("done")
    assert hands.performed[0]["do"] == deed


@pytest.mark.parametrize(
    "form",
    [
        {"do": "drop table", "pid": "1", "pool": "spare"},
        {"do": "cancel", "pid": "1", "pool": "spare"},
        {"do": "cancel", "pid": "1", "pool": "spare", "loan": "x"},
        {"pid": "1", "pool": "spare"},
        {"do": "drain", "pid": "-1", "pool": "spare"},
        {"do": "drain", "pid": "1", "pool": ""},
        {"do": "resize", "pid": "1", "pool": "spare"},
        {"do": "resize", "pid": "1", "pool": "spare", "size": "0"},
        {"do": "resize", "pid": "1", "pool": "spare", "size": "²"},
    ],
)
def test_nonsense_is_not_passed_on(client: Client, hands: Hands, form: dict[str, str]) -> None:
    assert said(client, **form).startswith("failed: ")
    assert hands.performed == hands.sent == []


def test_a_statement_that_runs_can_be_cancelled(
    client: Client, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    loans = [loan(transaction="ACTIVE", backend_pid=4801, number=7), loan(transaction="IDLE")]
    found = Collected([process(pid=1, pools=[pool(loans=loans)])])  # type: ignore[list-item]
    monkeypatch.setattr("django_connpool.web.page.of_host", lambda: found)
    shown = client.get("/pool/").content.decode()
    assert shown.count('value="cancel"') == 1
    assert said(client, do="cancel", pid=1, pool="shop", loan="4801", number="7")
    assert said(client, do="cancel", pid=1, pool="shop", loan="4801")
    command = {"do": "cancel", "pool": "shop", "loan": 4801}
    assert hands.sent == [(1, {**command, "number": 7}), (1, command)]


def test_nobody_else_puts_words_on_the_page(client: Client) -> None:
    sealed = acting.seal(True, "ours")
    for words in ("All is lost", sealed[:-1] + ("A" if sealed[-1] != "A" else "B"), ""):
        assert b'class="said' not in client.get("/pool/", {"said": words}).content
    assert b"ours" in client.get("/pool/", {"said": sealed}).content


def test_what_is_said_is_forgotten_after_a_minute(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = acting.seal(True, "ours")
    monkeypatch.setattr(acting, "SAID_SECONDS", -1)
    assert b"ours" not in client.get("/pool/", {"said": sealed}).content


def test_what_a_button_means_is_in_the_form(client: Client, hands: Hands, spare: Any) -> None:
    spare.pool.snapshot()
    shown = client.get("/pool/").content.decode()
    assert f'name="pid" value="{os.getpid()}"' in shown
    assert f'name="pool" value="{escape(spare.pool.name)}"' in shown
