"""The shop in the admin. The pool's page is in its index by itself: see docs/page.md."""

from __future__ import annotations

from django.contrib import admin

from .models import Category, Order, OrderLine, Product, Review


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):
    prepopulated_fields = {"slug": ["name"]}  # noqa: RUF012


class ReviewInline(admin.TabularInline):
    model = Review
    extra = 0


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("name", "category", "price", "stock")
    list_filter = ("category",)
    search_fields = ("name",)
    prepopulated_fields = {"slug": ["name"]}  # noqa: RUF012
    inlines = (ReviewInline,)


class OrderLineInline(admin.TabularInline):
    model = OrderLine
    autocomplete_fields = ("product",)
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("id", "customer", "placed_at")
    inlines = (OrderLineInline,)
