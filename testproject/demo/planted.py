"""The leak that the demo plants and finds again. Never do this."""

from __future__ import annotations

import threading

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from shop.models import Product

_answer = threading.Event()  # of a partner who never sends one


def subscribe(request: HttpRequest) -> HttpResponse:
    """Start a thread that begins a transaction, and does not end it."""
    began = threading.Event()
    threading.Thread(target=_tell_partner, args=[began], daemon=True).start()
    began.wait(5)
    return HttpResponse("subscribed\n")


def _tell_partner(began: threading.Event) -> None:
    with transaction.atomic():
        Product.objects.count()
        began.set()
        _answer.wait()
