"""Work that a command does itself, or has a Celery worker do."""

from __future__ import annotations

import io
import sys

import pytest
from django.core.management import CommandError, call_command

from shop.models import Category, Product
from shop.stock import FEW, UNITS

pytestmark = pytest.mark.django_db


@pytest.fixture
def products() -> None:
    category = Category.objects.create(name="Bread", slug="bread")
    for slug, stock in {"few": FEW - 1, "enough": FEW}.items():
        Product.objects.create(category=category, name=slug, slug=slug, price="1.00", stock=stock)


def stocks() -> dict[str, int]:
    return dict(Product.objects.values_list("slug", "stock"))


def restock(*arguments: str) -> str:
    out = io.StringIO()
    call_command("restock", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.usefixtures("products")
def test_what_there_is_little_of_is_restocked() -> None:
    assert restock() == "1 products restocked\n"
    assert stocks() == {"few": FEW - 1 + UNITS, "enough": FEW}
    assert restock("--below", str(FEW + 1), "--units", "2") == "1 products restocked\n"
    assert stocks()["enough"] == FEW + 2


@pytest.mark.parametrize("arguments", [["--below", "0"], ["--units", "-1"]])
def test_numbers_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="1 or more"):
        restock(*arguments)


@pytest.mark.usefixtures("products")
def test_without_celery_what_it_is_needed_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shop.tasks", "testproject.celery"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "celery", None)  # how Python says that there is none
    with pytest.raises(CommandError, match=r"pip install celery.*leave out --later"):
        restock("--later")
    assert restock() == "1 products restocked\n"
