"""Tests of a site with a pool, as `python manage.py test` runs them.

Where HTTPS is on, in CI say, set HTTPS=off for them: else the client is redirected.
"""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.test import TestCase, TransactionTestCase

from django_connpool import aio

from . import ordering
from .models import Category, Order, Product
from .repository import ProductRepository


def coffee(stock: int) -> Product:
    category = Category.objects.create(name="Coffee", slug="coffee")
    return Product.objects.create(
        category=category, name="Coffee", slug="coffee", price="4.20", stock=stock
    )


class OrderTest(TestCase):
    """TestCase is as ever: each test is a transaction, and the view's queries are in it."""

    def setUp(self) -> None:
        self.coffee = coffee(stock=3)

    def test_an_order_takes_from_the_stock(self) -> None:
        order = {"customer": "a@example.com", "products": {"coffee": 2}}
        answer = self.client.post("/api/orders/", order, content_type="application/json")
        self.assertEqual(answer.status_code, 201)
        self.coffee.refresh_from_db()
        self.assertEqual(self.coffee.stock, 1)

    def test_an_order_of_too_much_is_none(self) -> None:
        with self.assertRaises(ordering.OutOfStock):
            ordering.place("a@example.com", {"coffee": 4})
        self.assertFalse(Order.objects.exists())


class RepositoryTest(TransactionTestCase):
    """Connections of django_connpool.aio are others than the test's: they see what is committed."""

    def test_scarce_products_are_found(self) -> None:
        coffee(stock=3)
        products = ProductRepository(aio.pools["default"])
        (found,) = async_to_sync(products.scarce)(below=4)
        self.assertEqual((found.slug, found.stock, found.ordered), ("coffee", 3, 0))
