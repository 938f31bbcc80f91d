"""The shop for programs: JSON in, JSON out.

A request that gets no connection in time is answered 503 by the pool's middleware: nothing is to be
caught here.
"""

from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from . import ordering
from .models import Product

FIELDS = ["slug", "name", "price", "stock"]


@require_GET
def products(request: HttpRequest) -> JsonResponse:
    """The first 50 products by name; ``?search=`` for those whose name has the word."""
    found = Product.objects.filter(name__icontains=request.GET.get("search", ""))
    return JsonResponse({"products": list(found.values(*FIELDS)[:50])})


# Exempt, because nobody is logged in here: what a page of somebody else could have a browser send,
# everybody may send. An API that looks at a session must not be.
@csrf_exempt
@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    """Place an order: ``{"customer": email, "products": {slug: quantity}}``."""
    try:
        customer, quantities = _read(request.body)  # before anything is borrowed
        order = ordering.place(customer, quantities)
    except (ValueError, ValidationError) as error:
        return JsonResponse({"error": f"not an order: {error}"}, status=400)
    except Product.DoesNotExist:
        return JsonResponse({"error": "no such product"}, status=404)
    except ordering.OutOfStock as error:
        return JsonResponse({"error": str(error)}, status=409)
    return JsonResponse({"order": order.pk}, status=201)


def _read(body: bytes) -> tuple[str, dict[str, int]]:
    order: Any = json.loads(body)
    if not isinstance(order, dict):
        raise ValueError("an object is needed")
    quantities = order.get("products")
    if not isinstance(quantities, dict) or not quantities:
        raise ValueError("products are missing")
    if not all(type(quantity) is int and quantity > 0 for quantity in quantities.values()):
        raise ValueError("a quantity is a whole number from 1")
    customer = str(order.get("customer", ""))
    validate_email(customer)
    return customer, quantities
