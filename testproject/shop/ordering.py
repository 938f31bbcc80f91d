"""Orders: one transaction, as short as it can be."""

from __future__ import annotations

from django.db import transaction

from .models import Order, OrderLine, Product


class OutOfStock(Exception):
    """A product of the order is not there in this quantity."""


@transaction.atomic
def place(customer: str, quantities: dict[str, int]) -> Order:
    """
    Take the products, by slug and quantity, out of stock and into a new order.

    Raises Product.DoesNotExist for an unknown slug and OutOfStock; nothing is written then.
    """
    order = Order.objects.create(customer=customer)
    # In one order for everybody: two orders of the same products must not wait for each other.
    for slug in sorted(quantities):
        product = Product.objects.select_for_update().get(slug=slug)
        _take(product, quantities[slug])
        OrderLine.objects.create(
            order=order, product=product, quantity=quantities[slug], unit_price=product.price
        )
    return order


def _take(product: Product, quantity: int) -> None:
    if product.stock < quantity:
        raise OutOfStock(f"{product.stock} of {product.slug} left")
    product.stock -= quantity
    product.save(update_fields=["stock"])
