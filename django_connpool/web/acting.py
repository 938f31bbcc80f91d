"""What the buttons of the page do: hands on a pool of this process, or of another on this host."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from django.core import signing
from django.http import HttpRequest

HANDS = "django_connpool.status.hands"
TIMEOUT_SECONDS = 5.0
DEEDS = ("drain", "close-idle", "resize", "suspend", "resume", "cancel")
_SALT = "django_connpool.web.acting"
SAID_SECONDS = 60


def are_there() -> bool:
    """Whether this version has hands."""
    return _hands() is not None


def act(request: HttpRequest) -> tuple[bool, str]:
    """Do what a form of the page asks for; say whether it was done, and what came of it."""
    hands = _hands()
    if hands is None:
        return False, "This version cannot act on pools."
    try:
        pid, command = _command(request)
    except ValueError as error:
        return False, str(error)
    try:
        if pid == os.getpid():
            answer = hands.perform(command)
        else:
            answer = hands.send(pid, command, TIMEOUT_SECONDS)
    except Exception as error:  # the process may be gone, or not answer
        return False, f"pid {pid}: {' '.join(str(error).split()) or type(error).__name__}"
    return bool(answer.get("ok")), str(answer.get("text", ""))


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
    if deed not in DEEDS:
        raise ValueError(f"There is nothing to do that is called {deed!r}.")
    if not form.get("pid", "").isdecimal() or not form.get("pool"):
        raise ValueError("Which pool of which process?")
    command: dict[str, Any] = {"do": deed, "pool": form["pool"]}
    if deed == "resize":
        size = form.get("size", "")
        if not size.isdecimal() or not 0 < int(size) < 100_000:
            raise ValueError("The size has to be a number from 1 on.")
        command["size"] = int(size)
    elif deed == "cancel":
        if not form.get("loan", "").isdecimal():
            raise ValueError("Which loan?")
        command["loan"] = int(form["loan"])  # its backend's pid
        if form.get("number", "").isdecimal():  # so that a later loan of it is left alone
            command["number"] = int(form["number"])
    return int(form["pid"]), command


def _hands() -> Any:
    try:
        return import_module(HANDS)
    except ModuleNotFoundError as error:
        if error.name != HANDS:
            raise
        return None
