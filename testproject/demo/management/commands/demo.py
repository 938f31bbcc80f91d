from __future__ import annotations

import importlib
from typing import Any

import environ
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_connpool import conf
from testproject import embedded

NEEDED = ["gunicorn", "rich"]
OPTIONS = [
    ("--requests", 2000, "requests in each run"),
    ("--seconds", 12, "longest time for each run, even if requests are left"),
    ("--concurrency", 16, "requests under way at once"),
    ("--workers", 2, "gunicorn's worker processes"),
    ("--threads", 8, "threads in each of them"),
]


class Command(BaseCommand):
    help = (
        "Serve the shop with gunicorn under load, without pooling and then with it, and print what "
        "was measured side by side. Takes less than a minute and leaves nothing running. "
        "Replaces the content of the shop by the sample data."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        for name, number, text in OPTIONS:
            parser.add_argument(
                name, type=int, default=number, metavar="N", help=f"{text} (default {number})"
            )
        parser.add_argument(
            "--port",
            type=int,
            default=0,
            metavar="N",
            help="loopback port to serve on (default: any that is free)",
        )

    def handle(self, **options: Any) -> None:
        _refuse_what_cannot_work(options)
        max_size = _max_size()
        # Only now: they import what may be missing.
        from demo import interrupts
        from demo.child import ChildError
        from demo.comparison import Comparison, Scale
        from demo.watch import WatchError

        interrupts.install()
        names = [name.lstrip("-") for name, *_ in OPTIONS]
        scale = Scale(port=options["port"], **{name: options[name] for name in names})
        try:
            within_bound = Comparison(scale, max_size).run()
        except interrupts.Interrupted as interrupted:
            raise CommandError("Interrupted.", returncode=128 + interrupted.args[0]) from None
        except (ChildError, WatchError) as error:
            raise CommandError(str(error)) from error
        finally:
            embedded.leave()
        if not within_bound:
            raise CommandError("More connections than the pools may have: this is a bug.")


def _refuse_what_cannot_work(options: dict[str, Any]) -> None:
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise CommandError(
                f"{error}. Install what the demo needs: pip install -e '.[demo]'"
            ) from error
    for name, *_ in OPTIONS:
        if options[name.lstrip("-")] < 1:
            raise CommandError(f"{name} has to be 1 or more.")


def _max_size() -> int:
    try:
        pool = conf.parse(settings.DATABASES["default"])
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if pool is None or not environ.Env().bool("POOL", default=True):
        raise CommandError("POOL is off. The demo switches it off and on by itself: unset it.")
    return pool.max_size
