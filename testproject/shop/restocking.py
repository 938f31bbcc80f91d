from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from django_connpool import aio

from .repository import ProductRepository

FEW = 10


async def scarce(request: HttpRequest) -> HttpResponse:
    """What to order again: two questions at once, on two connections of the ORM's pool."""
    products = ProductRepository(aio.pools["default"])
    found, total = await asyncio.gather(products.scarce(FEW), products.count())
    return render(request, "shop/scarce.html", {"products": found, "total": total})
