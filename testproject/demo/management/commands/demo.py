"""`manage.py demo`: the shop under load with three kinds of connections, told as a story."""

from __future__ import annotations

import argparse
import importlib
import os
import secrets
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from demo.contenders import ALL, OURS, Contender, absent, sized
from django_connpool import conf
from testproject import embedded

NEEDED = ["gunicorn", "rich"]
NUMBERS = [
    ("--seconds", 4, "length of each scene"),
    ("--concurrency", 16, "visitors at once, in the first and the third scene"),
    ("--workers", 2, "gunicorn's worker processes"),
    ("--threads", 16, "threads in each of them"),
]
HELP = """\
Serve the shop with gunicorn under load, with stock Django, with Django's own pool and with
django-connpool, one after the other, and say what was measured. Each has three scenes:

  everyday   visitors who look around and order
  slow page  more visitors than connections are on a page that waits 1 s for another service;
             how long do the other pages take?
  restart    the server goes away for a second or two and comes back (one that DATABASE_URL
             names is left alone: it only ends the site's connections)

Then a page is visited that never gives its connection back, and poolstatus names its line of code.
At the end there is a table, and three sentences that say what its figures mean.

The story is told here and in a browser, at an address that is printed first. It takes about a
minute, longer on a busy machine. Ctrl-C ends it; nothing stays behind, whatever ends it, but the
database in testproject/.postgres. The content of the shop is replaced by the sample data. After an
error a visitor comes again 0.2 s later. Figures of a few seconds on a machine that does other
things, too, are no benchmark: bench/ has those.
"""


class Command(BaseCommand):
    help = HELP
    requires_system_checks: list[str] = []  # noqa: RUF012

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's own formatter would run the scenes into one paragraph.
        formatter = argparse.RawDescriptionHelpFormatter
        return super().create_parser(prog_name, subcommand, formatter_class=formatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        for name, number, text in NUMBERS:
            parser.add_argument(
                name, type=int, default=number, metavar="N", help=f"{text} (default {number})"
            )
        parser.add_argument(
            "--contenders",
            nargs="+",
            choices=list(ALL),
            metavar="WHICH",
            help=f"only these of {', '.join(ALL)} (default: all that can be had)",
        )
        parser.add_argument(
            "--keep",
            action="store_true",
            help="at the end serve with django-connpool until Ctrl-C, to look around",
        )
        parser.add_argument(
            "--port",
            type=int,
            default=0,
            metavar="N",
            help="loopback port of the shop (default: any that is free)",
        )

    def handle(self, **options: Any) -> None:
        _refuse_what_cannot_work(options)
        max_size = _max_size()
        # Only now: they import what may be missing.
        from demo import child, interrupts, site
        from demo.screen import Terminal
        from demo.story import Scale, Story
        from demo.watch import WatchError

        interrupts.install()
        contenders = self._taking_part(options["contenders"], options["keep"])
        numbers = {name.lstrip("-"): options[name.lstrip("-")] for name, *_ in NUMBERS}
        token = os.environ["CONNPOOL_TOKEN"] = secrets.token_urlsafe(16)
        try:
            with ExitStack() as stack:
                if not getattr(settings, "CONNPOOL_STATUS_DIR", None):
                    folder = stack.enter_context(child.folder())
                    os.environ["CONNPOOL_STATUS_DIR"] = str(folder)
                listener = stack.enter_context(site.listen(options["port"]))
                scale = Scale(**numbers, max_size=max_size)
                terminal = Terminal(
                    no_color=options["no_color"] or None,
                    force_terminal=options["force_color"] or None,
                )
                story = Story(scale, contenders, listener, token, terminal)
                held = story.tell(options["keep"])
        except interrupts.Interrupted as interrupted:
            raise CommandError("Interrupted.", returncode=128 + interrupted.args[0]) from None
        except (child.ChildError, WatchError, embedded.EmbeddedServerError) as error:
            raise CommandError(str(error)) from error
        finally:
            embedded.leave()
        if not held:
            raise CommandError("More connections than the pools may have: this is a bug.")

    def _taking_part(self, keys: list[str] | None, keep: bool) -> list[Contender]:
        chosen = [one for key, one in ALL.items() if not keys or key in keys]
        why_not = {one: why for one in chosen if (why := absent(one))}
        for one, why in why_not.items():
            if keys:
                raise CommandError(f"{one.name} cannot take part: {why}.")
            self.stdout.write(f"Without {one.name}: {why}.")
        if keep and OURS not in chosen:
            raise CommandError("--keep is for django-connpool, which --contenders leaves out.")
        return [one for one in chosen if one not in why_not]


def _refuse_what_cannot_work(options: dict[str, Any]) -> None:
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise CommandError(
                f"{error}. Install what the demo needs: pip install -e '.[demo]'"
            ) from error
    for name, *_ in NUMBERS:
        if options[name.lstrip("-")] < 1:
            raise CommandError(f"{name} has to be 1 or more.")
    if not 0 <= options["port"] <= 65535:
        raise CommandError("--port has to be from 0 to 65535.")


def _max_size() -> int:
    try:
        pool = conf.parse(sized(settings.DATABASES["default"]))
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if pool is None:
        raise CommandError("DATABASE_URL says pool=off. The demo goes without by itself.")
    return pool.max_size
