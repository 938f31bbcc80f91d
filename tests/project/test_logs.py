"""Each thing that the package logs stands in docs/logs.md, and nothing else does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import inside

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_connpool"
POOL = "django_connpool.pool"
DOCS = ROOT / "docs" / "logs.md"

METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
# Our own functions that pass on what is to be logged, and which of their arguments the text is.
PASSING = {"warn_later": 1, "_log_failure": 0, "say_once": 0, "_complain": 0}
# Where the text is an argument: what calls these is looked at instead.
PASSED_ON = {
    "pool/news.py: text",
    "process/background.py: text",
    "session/foreign.py: text",
    "pool/sharing.py: text",
}
PLACEHOLDER = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[sdrfg]")
HEADING = re.compile(r"^### `(.+)`$", re.MULTILINE)


@cache
def sources() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def constants() -> dict[str, set[str]]:
    """Each name that a text is given to somewhere in the package, and the texts."""
    found: dict[str, set[str]] = {}
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for name, text in given(node):
                    found.setdefault(name, set()).add(text)
    return found


def given(node: ast.Assign) -> Iterator[tuple[str, str]]:
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for name, value in pairs:
            text = value.value if isinstance(value, ast.Constant) else None
            if isinstance(name, ast.Name) and isinstance(text, str):
                yield name.id, text


def texts(node: ast.expr, function: ast.AST) -> set[str]:
    """What an argument of a log call may be; nothing, if that cannot be known here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        first, second = texts(node.left, function), texts(node.right, function)
        return {one + other for one in first for other in second}
    if isinstance(node, ast.Attribute):
        return constants().get(node.attr, set())
    if isinstance(node, ast.Name):
        here = {
            text
            for part in ast.walk(function)
            if isinstance(part, ast.Assign)
            for name, text in given(part)
            if name == node.id
        }
        return here or (constants().get(node.id, set()) if node.id.isupper() else set())
    return set()


def calls(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.AST]]:
    """The text of each log call, and the function that it stands in."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = ast.unparse(node.func).rpartition(".")[0]
            if name in PASSING:
                yield node.args[PASSING[name]], function
            elif owner.endswith("logger") and name in METHODS:
                yield node.args[0], function
            elif owner.endswith("logger") and name == "log":
                yield node.args[1], function


@cache
def logged() -> dict[str, str]:
    """Each text that the package logs, and the file it stands in."""
    found = {}
    for file, tree in sources().items():
        for argument, function in calls(tree):
            told = texts(argument, function)
            if not told:
                assert f"{file}: {ast.unparse(argument)}" in PASSED_ON, "write the text there"
            found.update(dict.fromkeys(told, file))
    return found


def pattern(text: str) -> re.Pattern[str]:
    """What a heading has to be that tells of this text: something stands for what is filled in."""
    parts = PLACEHOLDER.split(text.replace("%%", "%"))
    return re.compile(".*".join(map(re.escape, parts)))


@cache
def headings() -> tuple[str, ...]:
    return tuple(HEADING.findall(DOCS.read_text()))


def test_the_texts_are_found() -> None:
    assert len(logged()) > 25
    assert "%s: connecting failed: %s" in logged()
    assert any("uWSGI" in text for text in logged())


@pytest.mark.parametrize("text", sorted(logged()))
def test_each_text_is_documented(text: str) -> None:
    is_told = any(pattern(text).fullmatch(heading) for heading in headings())
    assert is_told, (
        f"{logged()[text]} logs it: docs/logs.md needs a heading ### `{text}`, "
        "with a word in capitals for each thing that is filled in"
    )


@pytest.mark.parametrize("heading", headings())
def test_nothing_is_documented_that_is_not_logged(heading: str) -> None:
    is_logged = any(pattern(text).fullmatch(heading) for text in logged())
    assert is_logged, "nothing logs it any more: take it out of docs/logs.md, or change it there"


def test_each_logger_says_a_thing_once_in_a_burst() -> None:
    used = set()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                if ast.unparse(node.func) == "logging.getLogger":
                    used.add(node.args[0].value)
                elif ast.unparse(node.func) == "bursts.logger":
                    used.add(f"{POOL}.{node.args[0].value}")

    assert used == inside.loggers() | {"django_connpool.status"}  # which sees to it itself
    for name in used:
        assert f"`{name}`" in DOCS.read_text()
