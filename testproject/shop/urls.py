"""The addresses of the shop."""

from __future__ import annotations

from django.urls import path

from . import api, export, restocking, views

app_name = "shop"
urlpatterns = [
    path("", views.ProductList.as_view(), name="products"),
    path("products/<slug:slug>/", views.ProductDetail.as_view(), name="product"),
    path("products/<slug:slug>/delivery/", views.delivery, name="delivery"),
    path("summary/", views.summary, name="summary"),
    path("scarce/", restocking.scarce, name="scarce"),
    path("export/products.csv", export.products, name="export"),
    path("api/products/", api.products, name="api-products"),
    path("api/orders/", api.orders, name="api-orders"),
]
