"""The documentation: links lead somewhere, and examples are what the package understands."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from django_connpool import conf

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^][]|\[[^]]*\])+\]\(([^()\s]+)\)")
PATH = re.compile(r"django_connpool(\.\w+)+")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SOME_OPTIONS = re.compile(r'`("\w+": [^`]+?)`')
IN_A_URL = re.compile(r"[?&]pool_(\w+)=")
INLINE = re.compile(r"`(manage\.py [^`]+)`")

# Packages of other people, which the tests need not have.
STRANGERS = {
    *("azure", "boto3", "celery", "channels", "consumer", "dramatiq", "google", "health_check"),
    *("huey", "hvac", "rest_framework", "shop", "theirs"),
}


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 2
            found.append(Block(name(page), line, fence[1], textwrap.dedent(fence[2])))
    return [block for block in found if block.language in languages]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", text))


# -- Links --------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """What code forges and the site make of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower().strip()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        told = anchor(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", heading))
        found.append(f"{told}-{found.count(told)}" if told in found else told)
    return set(found)


def lost(page: Path, text: str) -> Iterator[str]:
    """The links of a page's text that lead nowhere in the project."""
    for target in LINK.findall(without_code(text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (fragment and fragment not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_link_in_the_project_leads_somewhere(page: Path) -> None:
    assert list(lost(page, page.read_text())) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    page = ROOT / "docs" / "options.md"
    text = "[a](nowhere.md) [b](#how-many) [c](#how-few) [d](release.md#on-offer) `[e](code.md)`"
    assert list(lost(page, text)) == ["nowhere.md", "#how-few"]


def test_each_page_stands_in_the_navigation_once() -> None:
    index = ROOT / "docs" / "index.md"
    listed = [
        (index.parent / target).resolve()
        for target in re.findall(r"^- \[.+?\]\(([^)#]+)\)", index.read_text(), re.MULTILINE)
    ]
    assert sorted(listed) == [page for page in PAGES if page != index]


# -- Figures ------------------------------------------------------------------------------


def rows(page: str) -> list[str]:
    return re.findall(r"^\| .+ \|$", (ROOT / page).read_text(), re.MULTILINE)


def test_the_figures_of_the_readme_are_those_of_their_page() -> None:
    assert len(rows("README.md")) > 5
    assert [row for row in rows("README.md") if row not in rows("docs/figures.md")] == []


# -- Examples in Python -------------------------------------------------------------------


def tree(text: str) -> ast.Module:
    """What a block says: a module, or a piece of a dictionary of settings."""
    text = text.replace("{..., ", "{")  # and whatever else stands there
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.parse("{" + text + "}")


def names_of_ours(module: ast.Module) -> Iterator[str]:
    """The dotted paths into the package that a block imports or uses."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "django_connpool":
                yield f"django_connpool.{node.attr}"
        elif isinstance(node, ast.Constant) and PATH.fullmatch(str(node.value)):
            yield node.value


def is_there(path: str) -> bool:
    """Whether a module, a name in one, or a logger is called so."""
    if f"| `{path}` |" in (ROOT / "docs" / "logs.md").read_text():
        return True
    module, _, attribute = path.rpartition(".")
    try:
        importlib.import_module(path)
    except ImportError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("django_connpool"):
                return False
    else:
        return True
    # A module for a package that is not here.
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return f"class {attribute}" in Path(spec.origin).read_text()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_each_example_in_python_is_python_and_names_what_there_is(block: Block) -> None:
    found = set(names_of_ours(tree(block.text)))
    strangers = {path for path in found if path.partition(".")[0] in STRANGERS}
    assert [path for path in sorted(found - strangers) if not is_there(path)] == []


def understood(node: ast.expr) -> Any:
    """A value of the settings; what only stands for one is left out."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {
            understood(key): understood(value)
            for key, value in pairs
            if key is not None and not is_a_gap(value)
        }
    return ast.literal_eval(node)


def is_a_gap(node: ast.expr) -> bool:
    return not isinstance(node, (ast.Constant, ast.Dict, ast.List, ast.Tuple)) or (
        isinstance(node, ast.Constant) and node.value is ...
    )


def pools(module: ast.Module) -> Iterator[Any]:
    """What blocks say of `"pool"`, wherever it stands."""
    for node in ast.walk(module):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "pool":
                    yield understood(value)


def settings_of(text: str) -> list[Any]:
    return list(pools(tree(text)))


def diffs() -> Iterator[Block]:
    """The settings as they are after a change, and before it if they are ours then, too."""
    for block in blocks("diff"):
        lines = block.text.splitlines()
        text = "\n".join(line[1:] for line in lines if not line.startswith("-"))
        yield Block(block.page, block.line, block.language, textwrap.dedent(text))


SETTINGS = [block for block in [*blocks("python"), *diffs()] if settings_of(block.text)]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_options_in_the_examples_are_understood(block: Block) -> None:
    for pool in settings_of(block.text):
        # A budget is looked up in the settings, and a dotted path imported.
        if isinstance(pool, dict):
            pool = {key: value for key, value in pool.items() if key != "credentials"}
        assert conf.problems({"OPTIONS": {"pool": pool}}) == ()


def test_the_examples_with_options_are_found() -> None:
    assert len(SETTINGS) > 12
    assert conf.problems({"OPTIONS": {"pool": settings_of('"pool": {"max_sise": 1}')[0]}})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_urls_are_options(page: Path) -> None:
    assert set(IN_A_URL.findall(page.read_text())) <= set(conf.READERS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_written_in_the_text_are_understood(page: Path) -> None:
    for text in SOME_OPTIONS.findall(page.read_text()):
        given = understood(ast.parse("{" + text + "}", mode="eval").body)
        if set(given) <= set(conf.READERS):
            assert conf.problems({"OPTIONS": {"pool": given}}) == ()


# -- Examples of commands -----------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """What stands behind `manage.py`, each as one line of words."""
    for line in text.replace("\\\n", " ").splitlines():
        for found in re.findall(r"manage\.py ([a-z][^`|>;&#]*)", line):
            yield found.strip()


def misunderstood(command: str) -> str:
    """What is wrong with a command of manage.py; nothing where all is right."""
    word, *arguments = shlex.split(command)
    if (ROOT / "testproject" / "demo" / "management" / "commands" / f"{word}.py").exists():
        return ""
    known = {**get_commands(), "collectstatic": "django.contrib.staticfiles"}
    if word not in known:
        return f"there is no {word}"
    parser = load_command_class(known[word], word).create_parser("manage.py", word)
    flags = set(re.findall(r"--?[\w-]+", parser.format_help()))
    wrong = [argument for argument in arguments if argument.startswith("-")]
    return ", ".join(flag for flag in wrong if flag.partition("=")[0] not in flags)


def written() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        told = [command for inline in INLINE.findall(text) for command in commands(inline)]
        for block in FENCE.findall(text):
            told += commands(block[1]) if block[0] in ("", "console") else []
        found += [(name(page), command) for command in told]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), written(), ids=str)
def test_commands_and_their_flags_are_there(page: str, command: str) -> None:
    assert misunderstood(command) == ""


def test_a_command_that_is_not_there_is_seen() -> None:
    assert misunderstood("poolstatus --looans --server") == "--looans"
    assert misunderstood("poolstate") == "there is no poolstate"
    assert ("docs/start.md", "poolstatus --loans --server") in written()


def test_environments_of_tox_and_benchmarks_are_there() -> None:
    tox = (ROOT / "tox.ini").read_text()
    text = "\n".join(page.read_text() for page in PAGES)
    for label in re.findall(r"tox -m ([\w-]+)", text):
        assert re.search(rf"^    {label} = ", tox, re.MULTILINE), label
    for module in re.findall(r"python -m (bench\.\w+|tests\.\w+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), module


# -- The rest -----------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("json", "yaml"), ids=str)
def test_examples_in_json_and_yaml_can_be_read(block: Block) -> None:
    assert json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_examples_in_toml_can_be_read(block: Block) -> None:
    assert pytest.importorskip("tomllib").loads(block.text)


def test_each_block_says_a_language_that_is_looked_at() -> None:
    looked_at = {"", "console", "diff", "json", "python", "toml", "yaml"}
    assert {fence[0] for page in PAGES for fence in FENCE.findall(page.read_text())} <= looked_at
