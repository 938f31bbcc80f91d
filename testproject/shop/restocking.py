"""An async view that asks through the repository."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from django_connpool import aio

from . import stock
from .repository import ProductRepository


async def scarce(request: HttpRequest) -> HttpResponse:
    """What to order again: two questions at once, on two connections of the ORM's pool."""
    products = ProductRepository(aio.pools["default"])
    found, total = await asyncio.gather(products.scarce(stock.FEW), products.count())
    return render(request, "shop/scarce.html", {"products": found, "total": total})
