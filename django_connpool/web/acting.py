"""What the buttons of the page do: hands on a pool of this process, or of another on this host."""

from __future__ import annotations

from typing import Any

from django.core import signing
from django.http import HttpRequest

from django_connpool.status import hands

TIMEOUT_SECONDS = 5.0
_SALT = "django_connpool.web.acting"
SAID_SECONDS = 60


def act(request: HttpRequest) -> tuple[bool, str]:
    """Do what a form of the page asks for; say whether it was done, and what came of it."""
    try:
        pid, command = _command(request)
    except ValueError as error:
        return False, str(error)
    answer = hands.send(pid, command, TIMEOUT_SECONDS)
    return answer["ok"], answer["text"]


def seal(done: bool, text: str) -> str:
    """What came of it, for the address of the page that is shown next: nobody else can make it."""
    return signing.dumps([done, text[:500]], salt=_SALT)


def unseal(sealed: str) -> tuple[bool, str] | None:
    try:
        done, text = signing.loads(sealed, salt=_SALT, max_age=SAID_SECONDS)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    return bool(done), str(text)


def _command(request: HttpRequest) -> tuple[int, dict[str, Any]]:
    """The process and the command that a form means. Raises ValueError in words."""
    form = request.POST
    deed = form.get("do", "")
    if deed not in hands.VERBS:
        raise ValueError(f"There is nothing to do that is called {deed!r}.")
    if not form.get("pid", "").isdecimal() or not form.get("pool"):
        raise ValueError("Which pool of which process?")
    command: dict[str, Any] = {"do": deed, "pool": form["pool"]}
    if deed == "resize":
        size = form.get("size", "")
        if not size.isdecimal() or not 0 < int(size) <= hands.MOST:
            raise ValueError("The size has to be a number from 1 on.")
        command["size"] = int(size)
    elif deed == "cancel":
        if not form.get("loan", "").isdecimal():
            raise ValueError("Which loan?")
        command["loan"] = int(form["loan"])  # its backend's pid
        if form.get("number", "").isdecimal():  # so that a later loan of it is left alone
            command["number"] = int(form["number"])
    return int(form["pid"]), command
