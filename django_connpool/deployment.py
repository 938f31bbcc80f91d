"""What can be known, without asking anybody, of the servers that will run this project."""

from __future__ import annotations

import argparse
import ast
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

GUNICORN_FILE = "gunicorn.conf.py"


@dataclass(frozen=True)
class Limit:
    """A number, and where it stands."""

    number: float
    source: str


def processes() -> Limit | None:
    """How many processes will have a pool, as far as that stands anywhere.

    `CONNPOOL_PROCESSES` in the settings; else gunicorn's workers (in GUNICORN_CMD_ARGS, a file
    gunicorn.conf.py, WEB_CONCURRENCY) and Celery's (`CELERY_WORKER_CONCURRENCY` in the settings).
    """
    if (chosen := _setting("CONNPOOL_PROCESSES")) is not None:
        return chosen
    parts = [gunicorn("workers") or _web_concurrency(), _setting("CELERY_WORKER_CONCURRENCY")]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return Limit(sum(part.number for part in known), " and ".join(part.source for part in known))


def patience() -> Limit | None:
    """Seconds after which a request is given up by its server or by a proxy before it."""
    limits = [Limit(60, "what proxies do by default (nginx, AWS load balancers)")]
    if "DYNO" in os.environ:
        limits.append(Limit(30, "Heroku's router"))
    killed = gunicorn("timeout")
    # Workers of the other classes go on telling that they live while a request waits.
    kind, threads = _of_gunicorn("worker_class"), _of_gunicorn("threads")
    if killed and killed.number > 0 and kind[0] in (None, "sync") and threads[0] in (None, 1):
        limits.append(killed)
    return min(limits, key=lambda limit: limit.number)


def gunicorn(name: str) -> Limit | None:
    """A number of gunicorn's configuration, where that is not computed."""
    value, source = _of_gunicorn(name)
    return Limit(value, source) if _is_number(value) else None


def _setting(name: str) -> Limit | None:
    value: Any = getattr(settings, name, None)
    return Limit(value, name) if _is_number(value) else None


def _of_gunicorn(name: str) -> tuple[Any, str]:
    arguments = _arguments(os.environ.get("GUNICORN_CMD_ARGS", ""))
    if (value := getattr(arguments, name, None)) is not None:
        return value, f"{name} in GUNICORN_CMD_ARGS"
    folders = [Path.cwd(), *map(Path, filter(None, [getattr(settings, "BASE_DIR", None)]))]
    files = [Path(arguments.config)] if arguments.config else [f / GUNICORN_FILE for f in folders]
    for file in files:
        if (value := _literals(file).get(name)) is not None:
            return value, f"{name} in {file.name}"
    return None, ""


def _arguments(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-w", "--workers", type=int)
    parser.add_argument("-t", "--timeout", type=int)
    parser.add_argument("-k", "--worker-class")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-c", "--config", type=lambda name: name.removeprefix("file:"))
    try:
        return parser.parse_known_args(shlex.split(text))[0]
    except (argparse.ArgumentError, ValueError, SystemExit):  # gunicorn will say what is wrong
        return parser.parse_args([])


def _literals(file: Path) -> dict[str, Any]:
    """The names of a Python file that are given a plain value. It is not run."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            value = statement.value.value if isinstance(statement.value, ast.Constant) else None
            found |= {to.id: value for to in statement.targets if isinstance(to, ast.Name)}
    return found


def _web_concurrency() -> Limit | None:
    text = os.environ.get("WEB_CONCURRENCY", "")
    return Limit(int(text), "WEB_CONCURRENCY") if text.isascii() and text.isdigit() else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
