"""A command that fills the shop."""

from __future__ import annotations

from django.core.management.base import BaseCommand

from shop import sample


class Command(BaseCommand):
    help = "Replace the content of the shop by the sample data, the same each time."

    def handle(self, **options: object) -> None:
        sample.load()
        self.stdout.write(f"{sample.PRODUCTS} products, {sample.ORDERS} orders")
