from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import AsyncClient

from django_connpool import aio
from shop import sample
from shop.models import Product
from shop.repository import ProductRepository

pytestmark = [pytest.mark.urls("testproject.urls"), pytest.mark.django_db(transaction=True)]

SLUG = "fresh-alpine-bread"


@pytest.fixture(autouse=True)
def shop() -> Iterator[None]:
    """The shop with its sample data, which other connections see too."""
    sample.load()
    connection.close()
    yield


def test_the_page_tells_what_is_scarce() -> None:
    Product.objects.update(stock=100)
    Product.objects.filter(slug=SLUG).update(stock=3)

    async def get() -> Any:
        return await AsyncClient().get("/scarce/")

    response = async_to_sync(get)()
    page = response.content.decode()
    assert "Fresh Alpine Bread</a>: 3 left" in page
    assert f"1 of {Product.objects.count()} products" in page


def test_a_product_is_restocked_or_there_is_none() -> None:
    products = ProductRepository(aio.pools["default"])

    async def main() -> None:
        before = await products.restock(SLUG, 0)
        assert await products.restock(SLUG, 5) == before + 5
        with pytest.raises(KeyError):
            await products.restock("nothing", 5)

    asyncio.run(main())
