"""Pages that only the demo has."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.urls import reverse
from django.utils.html import format_html

from shop.models import Product

PARTNER_SECONDS = 1.0

LOOK = """<!doctype html><title>Connection pools</title>
<form method="post" action="{}">
<input type="hidden" name="csrfmiddlewaretoken" value="{}">
<input type="hidden" name="token" value="{}">
<button autofocus>Open the page of the pools</button>
</form>
<script>document.forms[0].submit()</script>
"""


def partner(request: HttpRequest) -> JsonResponse:
    """A slow page: a query, a service of somebody else, and another query."""
    stock = Product.objects.values_list("stock", flat=True)[0]
    time.sleep(PARTNER_SECONDS)
    return JsonResponse({"stock": stock, "products": Product.objects.count()})


def look(request: HttpRequest, token: str) -> HttpResponse:
    """The way to the page of the pools, without typing the token that the demo has made."""
    enter = reverse("django_connpool:enter")
    return HttpResponse(format_html(LOOK, enter, get_token(request), token))
