"""What the command and the task do: work that knows nothing of who calls it, nor of the pool."""

from __future__ import annotations

from django.db.models import F

from .models import Product

FEW = 10
UNITS = 50


def restock(below: int = FEW, units: int = UNITS) -> int:
    """Add units to each product of which there are fewer than `below`; how many these were."""
    return Product.objects.filter(stock__lt=below).update(stock=F("stock") + units)
