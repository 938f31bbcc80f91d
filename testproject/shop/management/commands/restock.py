"""A command that does something, or has a Celery worker do it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from shop import stock


class Command(BaseCommand):
    help = "Add to the stock of products that there are few of."

    def add_arguments(self, parser: CommandParser) -> None:
        for name, number in {"below": stock.FEW, "units": stock.UNITS}.items():
            parser.add_argument(f"--{name}", type=int, default=number, help=f"default: {number}")
        parser.add_argument("--later", action="store_true", help="have a Celery worker do it")

    def handle(self, *, below: int, units: int, later: bool, **options: Any) -> None:
        # A command opens the connections that it uses, and no min_size; its end gives them back.
        # One that runs on and on puts each round into `with django_connpool.scope("restock"):`.
        if below < 1 or units < 1:
            raise CommandError("--below and --units have to be 1 or more.")
        if later:
            _tasks().restock.delay(below, units)
            here = settings.CELERY_TASK_ALWAYS_EAGER
            self.stdout.write("done here: there is no CELERY_BROKER_URL" if here else "handed over")
        else:
            self.stdout.write(f"{stock.restock(below, units)} products restocked")


def _tasks() -> Any:
    try:
        from shop import tasks
    except ImportError as error:
        raise CommandError(f"{error}, or leave out --later.") from error
    return tasks
