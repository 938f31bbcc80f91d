"""Sample data: a few hundred rows, the same each time. Not to be copied."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from django.db import transaction
from django.utils.text import slugify

from .models import Category, Order, OrderLine, Product, Review

PRODUCTS = 240
ORDERS = 60
STOCK = 10_000
CATEGORIES = ["Bread", "Cheese", "Coffee", "Fruit", "Honey", "Oil", "Spices", "Tea"]
MANNERS = ["Fresh", "Mild", "Dark", "Wild", "Smoked"]
PLACES = ["Alpine", "Coastal", "Garden", "Highland", "Island", "Valley"]
AUTHORS = ["Ada", "Bela", "Chiara", "Dag", "Edda", "Finn"]


@transaction.atomic
def load() -> None:
    """Replace everything in the shop."""
    chance = Random(7)
    for model in (Order, Product, Category):
        model.objects.all().delete()
    categories = Category.objects.bulk_create(
        Category(name=name, slug=slugify(name)) for name in CATEGORIES
    )
    products = Product.objects.bulk_create(_products(categories, chance))
    Review.objects.bulk_create(
        _review(product, chance) for product in products for _ in range(chance.randrange(4))
    )
    orders = Order.objects.bulk_create(
        Order(customer=f"{chance.choice(AUTHORS).lower()}{number}@example.com")
        for number in range(ORDERS)
    )
    OrderLine.objects.bulk_create(
        OrderLine(order=order, product=product, quantity=2, unit_price=product.price)
        for order in orders
        for product in chance.sample(products, 3)
    )


def _products(categories: list[Category], chance: Random) -> list[Product]:
    names = [
        (category, f"{manner} {place} {category.name}")
        for category in categories
        for manner in MANNERS
        for place in PLACES
    ]
    return [
        Product(
            category=category,
            name=name,
            slug=slugify(name),
            description=f"{name}, from people who know what they do.",
            price=Decimal(chance.randrange(200, 9000)) / 100,
            stock=STOCK,
        )
        for category, name in names
    ]


def _review(product: Product, chance: Random) -> Review:
    return Review(
        product=product,
        author=chance.choice(AUTHORS),
        stars=chance.randint(1, 5),
        text=chance.choice(["Again!", "As it should be.", "Not for me."]),
    )
