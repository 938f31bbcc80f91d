from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import Client

from shop.models import Category, Order, OrderLine, Product

pytestmark = [pytest.mark.urls("testproject.urls")]


@pytest.fixture
def bread() -> Product:
    category = Category.objects.create(name="Bread", slug="bread")
    return Product.objects.create(category=category, name="B", slug="b", price="2.50", stock=5)


@pytest.fixture
def rare(bread: Product) -> Product:
    return Product.objects.create(
        category=bread.category, name="Rare", slug="rare", price="9.00", stock=1
    )


def order(client: Client, **products: object) -> HttpResponse:
    body = {"customer": "a@example.com", "products": products}
    return client.post("/api/orders/", json.dumps(body), content_type="application/json")


@pytest.mark.django_db
def test_an_order_takes_its_products_out_of_stock(
    client: Client, bread: Product, rare: Product
) -> None:
    response = order(client, b=2, rare=1)
    assert response.status_code == 201
    lines = OrderLine.objects.filter(order=response.json()["order"]).order_by("product__slug")
    assert [(line.product.slug, line.quantity, str(line.unit_price)) for line in lines] == [
        ("b", 2, "2.50"),
        ("rare", 1, "9.00"),
    ]
    assert [p.stock for p in Product.objects.order_by("slug")] == [3, 0]


@pytest.mark.parametrize(("second", "status"), [({"rare": 2}, 409), ({"unknown": 1}, 404)])
@pytest.mark.django_db(transaction=True)
def test_an_order_that_fails_halfway_leaves_nothing(
    client: Client, bread: Product, rare: Product, second: dict[str, int], status: int
) -> None:
    assert order(client, b=1, **second).status_code == status
    assert not Order.objects.exists()
    assert [p.stock for p in Product.objects.order_by("slug")] == [5, 1]


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        "{}",
        '{"customer": "a@example.com", "products": {}}',
        '{"customer": "a@example.com", "products": {"b": 0}}',
        '{"customer": "a@example.com", "products": {"b": true}}',
        '{"customer": "a@example.com", "products": {"b": "1"}}',
        '{"customer": "nobody", "products": {"b": 1}}',
    ],
)
@pytest.mark.django_db
def test_what_is_not_an_order_is_refused(client: Client, bread: Product, body: str) -> None:
    response = client.post("/api/orders/", body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["error"].startswith("not an order: ")
    assert not Order.objects.exists()


@pytest.mark.django_db
def test_orders_are_posted(client: Client) -> None:
    assert client.get("/api/orders/").status_code == 405


@pytest.mark.django_db(transaction=True)
def test_the_last_piece_is_sold_once(rare: Product) -> None:
    together = threading.Barrier(6)
    statuses: list[int] = []

    def buy() -> None:
        try:
            together.wait(10)
            statuses.append(order(Client(), rare=1).status_code)
        finally:
            connections.close_all()

    in_threads(buy, together.parties)
    assert sorted(statuses) == [201, 409, 409, 409, 409, 409]
    rare.refresh_from_db()
    assert rare.stock == 0


def in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
