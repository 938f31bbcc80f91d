"""docs/options.md and README tell of the options that there are, with their defaults."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from django_connpool.conf import PoolOptions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "site" / "options.py"
TOLD = re.compile(r"\*\*`(\w+)`\*\* \(([^()]+)\)")

WRITE = "Write the table anew: python docs/site/options.py"
OPTIONS = [*PoolOptions.__dataclass_fields__]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("options_page", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load()
PAGE = script.PAGE.read_text()


def plain(said: str) -> str:
    """A default without its unit, and what it means."""
    return said.partition("(")[0].partition(",")[0].strip().removesuffix(" s")


def test_the_table_is_what_the_code_says() -> None:
    assert script.written(PAGE) == PAGE, WRITE


def test_a_table_that_lacks_an_option_is_seen() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("| `jitter`"))
    shorter = PAGE.replace(line + "\n", "")
    assert shorter != script.written(shorter) == script.written(PAGE)


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_told_of_in_a_section(option: str) -> None:
    is_told = option in script.sections(PAGE)
    default = script.default(option)
    assert is_told, f"docs/options.md, below a heading: **`{option}`** ({default}). {WRITE}"


def test_the_defaults_in_the_text_are_those_of_the_code() -> None:
    told = {option: plain(said) for option, said in TOLD.findall(PAGE) if option in OPTIONS}
    assert set(told) > {"max_size", "release", "outage_patience"}
    assert told == {option: plain(script.default(option)) for option in told}


def test_the_defaults_in_the_readme_are_those_of_the_code() -> None:
    text = (ROOT / "README.md").read_text()
    told = {option: plain(said) for option, said in TOLD.findall(text)}
    assert set(told) >= {"max_size", "timeout"}
    assert told == {option: plain(script.default(option)) for option in told}
