from __future__ import annotations

import csv
from collections.abc import Iterable

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from shop import export, sample
from shop.models import Product

pytestmark = [pytest.mark.urls("testproject.urls")]


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHUNK", 7)


def check(pieces: Iterable[bytes]) -> None:
    header, *rows = csv.reader(piece.decode() for piece in pieces)
    assert header == ["slug", "name", "category", "price", "stock"]
    assert rows == [
        [product.slug, product.name, product.category.name, str(product.price), str(product.stock)]
        for product in Product.objects.select_related("category")
    ]
    assert len(rows) == 240


@pytest.mark.usefixtures("shop")
def test_the_export_has_every_product(client: Client) -> None:
    response = client.get("/export/products.csv")
    assert response["Content-Type"] == "text/csv"
    check(response.streaming_content)


@pytest.mark.usefixtures("transactional_db")
def test_the_export_streams_outside_of_a_transaction(client: Client) -> None:
    sample.load()
    check(client.get("/export/products.csv").streaming_content)


@pytest.mark.usefixtures("shop")
def test_an_asynchronous_server_gets_the_same(async_client: AsyncClient) -> None:
    async def pieces() -> list[bytes]:
        response = await async_client.get("/export/products.csv")
        return [piece async for piece in response.streaming_content]

    check(async_to_sync(pieces)())
