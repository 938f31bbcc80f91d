from __future__ import annotations

import json

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from shop import carrier, sample
from shop.models import Category, Order, Product, Review
from shop.sample import ORDERS, PRODUCTS

pytestmark = [pytest.mark.urls("testproject.urls"), pytest.mark.usefixtures("shop")]

SLUG = "fresh-alpine-bread"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "Dark Alpine Bread"),
        ("/?category=tea", "Dark Alpine Tea"),
        ("/?page=2", "Dark Highland Cheese"),
        (f"/products/{SLUG}/", "Fresh Alpine Bread, from people who know what they do."),
        ("/admin/login/", "Django administration"),
    ],
)
def test_a_page_answers(client: Client, path: str, text: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert text in response.content.decode()


def test_a_category_has_only_its_own_products(client: Client) -> None:
    products = client.get("/?category=tea").context["page_obj"].object_list
    assert {product.category.slug for product in products} == {"tea"}


def test_the_list_needs_no_query_for_each_product(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(3):
        client.get("/")


def test_a_product_shows_its_reviews(client: Client) -> None:
    product = Product.objects.get(slug=SLUG)
    product.reviews.all().delete()
    Review.objects.create(product=product, author="Zoe", stars=4, text="Crisp.")
    page = client.get(product.get_absolute_url()).content.decode()
    assert "4 stars" in page
    assert "Zoe, 4 of 5: Crisp." in page


def test_delivery_asks_the_carrier(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(carrier, "delivery_days", lambda slug: asked.append(slug) or 3)
    page = client.get(f"/products/{SLUG}/delivery/").content.decode()
    assert asked == [SLUG]
    assert "in 3 days" in page


@pytest.mark.parametrize("path", ["/products/nothing/", "/products/nothing/delivery/"])
def test_an_unknown_product_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_summary_counts(client: Client) -> None:
    summary = client.get("/summary/").json()
    assert (summary["products"], summary["orders"]) == (PRODUCTS, ORDERS)
    assert "Tea" in summary["categories"]


def test_the_summary_answers_an_asynchronous_server(async_client: AsyncClient) -> None:
    async def products() -> int:
        response = await async_client.get("/summary/")
        return json.loads(response.content)["products"]

    assert async_to_sync(products)() == PRODUCTS


def test_the_summary_of_an_empty_shop(client: Client) -> None:
    for model in (Order, Product, Category):
        model.objects.all().delete()
    assert client.get("/summary/").json()["units"] == 0


def test_the_api_finds_products_by_a_word(client: Client) -> None:
    found = client.get("/api/products/?search=island").json()["products"]
    assert found
    assert all("Island" in product["name"] for product in found)


@pytest.mark.parametrize("model", ["category", "product", "order"])
@pytest.mark.parametrize("page", ["changelist", "add"])
def test_the_admin_answers(admin_client: Client, model: str, page: str) -> None:
    assert admin_client.get(reverse(f"admin:shop_{model}_{page}")).status_code == 200


def test_the_page_of_the_pools_is_in_the_index_of_the_admin(admin_client: Client) -> None:
    page = reverse("admin:django_connpool_pool_changelist")
    assert page in admin_client.get(reverse("admin:index")).content.decode()
    assert admin_client.get(page).status_code == 200


def test_the_page_of_the_pools_has_an_address_of_its_own(
    client: Client, admin_client: Client
) -> None:
    assert client.get("/pool/").status_code == 403
    assert admin_client.get("/pool/").status_code == 200


@pytest.mark.parametrize("probe", ["live", "ready"])
def test_a_probe_is_answered_to_everybody(client: Client, probe: str) -> None:
    assert client.get(f"/pool/{probe}").status_code == 200


def test_the_sample_is_the_same_each_time() -> None:
    before = list(Product.objects.values_list("slug", "price", "stock"))
    Product.objects.update(stock=0)
    sample.load()
    assert list(Product.objects.values_list("slug", "price", "stock")) == before
