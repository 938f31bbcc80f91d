"""The list of mutants fits the sources: what cannot be put in would prove nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import django_connpool
from tests.mutants.__main__ import apply
from tests.mutants.places import MUTANTS, Mutant

PACKAGE = Path(django_connpool.__file__).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks)
def test_a_mutant_has_its_place_and_is_python(mutant: Mutant) -> None:
    source = (PACKAGE / mutant.file).read_text()
    broken = apply(mutant, source)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))


def test_there_are_thirty_at_least() -> None:
    assert len(MUTANTS) >= 30
