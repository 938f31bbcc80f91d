"""Who may see the pools, and who may act on them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.utils.functional import SimpleLazyObject

from django_connpool.web import access
from tests.databases import in_thread
from tests.web.conftest import BEARER, TOKEN, Hands
from tests.web.helpers import everything_on_loan

CLOSED_TO_STRANGERS = ("", "status.json", "metrics")


def client_of(**who: Any) -> Client:
    user = User.objects.create_user("somebody", password=None)
    for name, value in who.items():
        setattr(user, name, value)
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("path", CLOSED_TO_STRANGERS)
def test_a_stranger_is_told_how_to_get_in_and_nothing_else(spare: Any, path: str) -> None:
    answer = Client().get(f"/pool/{path}")
    assert answer.status_code == 403
    assert b"spare" not in answer.content
    assert b"CONNPOOL_TOKEN" in answer.content
    assert TOKEN.encode() not in answer.content


@pytest.mark.parametrize("path", ["", "status.json"])
def test_with_debug_everybody_may_see(settings: Any, path: str) -> None:
    settings.DEBUG = True
    assert Client().get(f"/pool/{path}").status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"],
)
def test_a_wrong_token_opens_nothing(header: str) -> None:
    answer = Client().get("/pool/status.json", headers={"Authorization": header})
    assert answer.status_code == 403


def test_who_sends_a_token_that_does_not_open_is_told_why(settings: Any) -> None:
    def answer() -> str:
        wrong = {"Authorization": "Bearer wrong"}
        return Client().get("/pool/metrics", headers=wrong).content.decode()

    assert "is not the one that CONNPOOL_TOKEN in the settings says" in answer()
    settings.CONNPOOL_TOKEN = None
    assert "this process has no CONNPOOL_TOKEN" in answer()


@pytest.mark.parametrize("token", ["", None, 0, b"bytes of a token that is long enough"])
def test_without_a_token_none_opens(settings: Any, token: Any) -> None:
    settings.CONNPOOL_TOKEN = token
    for said in ("Bearer ", f"Bearer {token}", "Bearer None"):
        answer = Client().get("/pool/status.json", headers={"Authorization": said})
        assert answer.status_code == 403
    assert Client().post("/pool/enter", {"token": ""}).status_code == 403


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, ...]] = []

    def compare(*both: Any) -> bool:
        compared.append(both)
        return False

    monkeypatch.setattr(access, "constant_time_compare", compare)
    assert Client().get("/pool/status.json", headers=BEARER).status_code == 403
    assert compared == [(TOKEN, TOKEN)]


def test_the_token_that_somebody_types_opens_until_it_changes(settings: Any) -> None:
    client = Client()
    answer = client.post("/pool/enter", {"token": "wrong"})
    assert answer.status_code == 403
    assert b'href="/admin/login/?next=%2Fpool%2F"' in answer.content
    answer = client.post("/pool/enter", {"token": TOKEN})
    assert (answer.status_code, answer["Location"]) == (302, "./")
    cookie = client.cookies[access.COOKIE]
    assert (cookie["path"], cookie["samesite"], cookie["httponly"]) == ("/pool/", "Strict", True)
    assert TOKEN not in cookie.value
    assert client.get("/pool/").status_code == 200
    settings.CONNPOOL_TOKEN = "another token that is long enough"
    assert client.get("/pool/").status_code == 403


def test_a_cookie_that_somebody_made_opens_nothing() -> None:
    client = Client()
    client.cookies[access.COOKIE] = "made:up:by-hand"
    assert client.get("/pool/").status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("who", "status"),
    [
        ({"is_staff": True}, 200),
        ({"is_staff": False}, 403),
        ({"is_staff": True, "is_active": False}, 403),
    ],
)
@pytest.mark.parametrize("path", ["", "status.json"])
def test_staff_may_see(who: dict[str, bool], status: int, path: str) -> None:
    assert client_of(**who).get(f"/pool/{path}").status_code == status


@pytest.mark.django_db
def test_only_who_is_trusted_to_may_act(settings: Any, hands: Hands) -> None:
    command = {"do": "drain", "pid": "1", "pool": "spare"}
    staff = client_of(is_staff=True)
    assert b'name="do"' not in staff.get("/pool/").content
    assert staff.post("/pool/act", command).status_code == 403

    settings.CONNPOOL_ACT_PERMISSION = "auth.act_on_pools"
    assert staff.post("/pool/act", command).status_code == 403
    kind = ContentType.objects.get_for_model(User)
    permission = Permission.objects.create(codename="act_on_pools", content_type=kind)
    User.objects.get().user_permissions.add(permission)
    assert staff.post("/pool/act", command).status_code == 302

    del settings.CONNPOOL_ACT_PERMISSION
    assert staff.post("/pool/act", command).status_code == 403
    User.objects.update(is_superuser=True)
    assert staff.post("/pool/act", command).status_code == 302
    assert len(hands.sent) == 2


@pytest.mark.django_db
def test_a_token_acts_on_nothing(hands: Hands, settings: Any) -> None:
    command = {"do": "drain", "pid": "1", "pool": "spare"}
    for debug in (False, True):
        settings.DEBUG = debug
        assert Client().post("/pool/act", command, headers=BEARER).status_code == 403
    assert hands.sent == []


@pytest.mark.django_db
def test_who_acts_needs_the_csrf_token(hands: Hands, settings: Any) -> None:
    settings.MIDDLEWARE = [path for path in settings.MIDDLEWARE if "csrf" not in path]
    careless = client_of(is_superuser=True, is_staff=True)
    client = Client(enforce_csrf_checks=True)
    client.cookies = careless.cookies
    command = {"do": "drain", "pid": "1", "pool": "spare"}
    assert client.post("/pool/act", command).status_code == 403
    assert client.get("/pool/act").status_code == 405
    assert hands.sent == []


def test_who_types_the_token_needs_the_csrf_token(settings: Any) -> None:
    settings.MIDDLEWARE = [path for path in settings.MIDDLEWARE if "csrf" not in path]
    client = Client(enforce_csrf_checks=True)
    assert client.post("/pool/enter", {"token": TOKEN}).status_code == 403
    page = client.get("/pool/")
    told = page.content.decode().partition('name="csrfmiddlewaretoken" value="')[2][:64]
    answer = client.post("/pool/enter", {"token": TOKEN, "csrfmiddlewaretoken": told})
    assert answer.status_code == 302


class Unaskable:
    """Middleware whose `user` cannot be looked up."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.user = SimpleLazyObject(self.fail)
        return self.get_response(request)

    def fail(self) -> Any:
        raise AssertionError("somebody was looked up")


def test_nobody_is_looked_up_in_a_database_that_would_not_answer(
    spare: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "tests.web.test_access.Unaskable"]

    class Router:
        def db_for_read(self, model: Any, **hints: Any) -> str:
            return "spare"

    monkeypatch.setattr(access, "router", Router())
    monkeypatch.setattr(access, "PATIENCE", access.readiness.Limits(stuck_after=0))
    with everything_on_loan(spare):
        # In a thread of its own, as a server would: this one has something in hand.
        answer = in_thread(lambda: Client().get("/pool/"))
        assert answer.status_code == 503
        assert b"cannot be looked up in the database" in answer.content
        assert b'name="token"' in answer.content
        in_admin = "/admin/django_connpool/pool/"
        assert in_thread(lambda: Client().get(in_admin)).status_code == 503
        for path in ("/pool/", in_admin):
            with_token = in_thread(lambda path=path: Client().get(path, headers=BEARER))
            assert with_token.status_code == 200


def test_a_site_without_users_has_the_token(settings: Any) -> None:
    settings.MIDDLEWARE = settings.MIDDLEWARE[:1]
    answer = Client().get("/pool/")
    assert answer.status_code == 403
    assert b"knows no users" in answer.content
    assert Client().get("/pool/", headers=BEARER).status_code == 200


@pytest.mark.django_db
def test_nobody_can_shut_himself_out(hands: Hands) -> None:
    root = client_of(is_staff=True, is_superuser=True)
    command = {"do": "suspend", "pid": "1", "pool": "default"}
    answer = root.post("/pool/act", command, follow=True)
    assert b"nobody could resume it here" in answer.content
    assert not hands.sent
    root.post("/pool/act", {**command, "pool": "spare"})
    root.post("/pool/act", {**command, "do": "resume"})
    assert [command["do"] for _, command in hands.sent] == ["suspend", "resume"]
