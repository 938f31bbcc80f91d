"""The pages of the shop: plain Django, with nothing about the pool in it."""

from __future__ import annotations

from typing import Any

from django.db.models import Avg, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.generic import DetailView, ListView

from . import carrier
from .models import Category, Order, Product


class ProductList(ListView):
    """The products by name, a page at a time; ``?category=<slug>`` for one category."""

    paginate_by = 24

    def get_queryset(self) -> QuerySet[Product]:
        products = Product.objects.select_related("category")
        category = self.request.GET.get("category")
        return products.filter(category__slug=category) if category else products

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(categories=Category.objects.all(), **kwargs)


class ProductDetail(DetailView):
    queryset = Product.objects.select_related("category").prefetch_related("reviews")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        stars = self.object.reviews.aggregate(stars=Avg("stars"))["stars"]
        return super().get_context_data(stars=stars, **kwargs)


def delivery(request: HttpRequest, slug: str) -> HttpResponse:
    """When a product can be there: a query, a slow service, another query."""
    product = get_object_or_404(Product, slug=slug)
    # The slow part. No transaction is open, so that the connection is on offer meanwhile to whoever
    # needs one: with ATOMIC_REQUESTS, or in an atomic block, it would be held.
    days = carrier.delivery_days(product.slug)
    others = product.category.products.exclude(pk=product.pk)[:3]
    context = {"product": product, "days": days, "others": others}
    return render(request, "shop/delivery.html", context)


async def summary(request: HttpRequest) -> JsonResponse:
    """How much there is of what: the ORM of an async view, in the thread that Django has for it."""
    stock = await Product.objects.aaggregate(units=Sum("stock"))
    categories = [category.name async for category in Category.objects.all()]
    return JsonResponse(
        {
            "products": await Product.objects.acount(),
            "orders": await Order.objects.acount(),
            "units": stock["units"] or 0,
            "categories": categories,
        }
    )
