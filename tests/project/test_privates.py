"""Tests look at the package from outside, and inside it only through `tests/inside.py`.

Whoever rebuilds the package has that one file to change, and every other test to keep.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_connpool"
TESTS = ROOT / "tests"
INSIDE = TESTS / "inside.py"

# Private names of others that tests use. This list may only become shorter.
REMAIN = {
    "_exit": "of os: ends a child without what its parent would do at its end",
    "_getframe": "of sys: the frame that asks",
    "_is_owned": "of threading: whether a lock is in this thread's hand",
    "_registry": "of weakref: how many finalizers there are",
    "_base_environ": "of Django's RequestFactory: the environment of a request for a WSGI handler",
    "_cursor": "of Django's wrappers: what other packages override",
    "_close": "of Django's wrappers: what our wrapper overrides",
    "_connections": "of Django: a thread's wrapper, without making one",
    "_nodb_cursor": "of Django's wrappers: a cursor where the database does not exist yet",
    "_set_autocommit": "of Django's wrappers: what our wrapper overrides",
    "_notice_handlers": "of psycopg: what has been added by `add_notice_handler`",
    "_pool": "of psycopg: the pool of a connection, its hook for pools",
    "_start_query": "of psycopg: how a connection begins a statement",
    "_queries": "of django-debug-toolbar: what its SQL panel has recorded",
    "_close_database": "of Celery: what its support for Django calls, and we look for",
    "_wrapped": "of Django's settings: those that are behind them",
    "_tpc": "of psycopg: a two-phase transaction that is under way",
    "_Server": "of the demo project: where it puts its sockets",
    "_programs": "of the demo project: where it finds the server's programs",
}

# They change the text of the package, so they know it.
MUTANTS = TESTS / "mutants"

# Modules below these move when the package is rebuilt; what users name in their settings does not.
INNER = tuple(f"django_connpool.{room}." for room in ("pool", "session", "process", "backends"))
NAMED_BY_USERS = re.compile(r"django_connpool\.backends\.(postgresql|postgis|mixin)\b")

PRIVATE = re.compile(r"_[A-Za-z]\w*")
BY_NAME = ("getattr", "setattr", "hasattr", "delattr", "object", "attrgetter", "methodcaller")


def files() -> list[Path]:
    found = [path for path in sorted(TESTS.rglob("*.py")) if MUTANTS not in path.parents]
    return [path for path in found if path not in (INSIDE, Path(__file__))]


def place(path: Path, node: ast.AST, text: str) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}: {text}"


@cache
def trees(path: Path) -> list[ast.AST]:
    """A file, and the scripts that stand in it as strings."""
    tree = ast.parse(path.read_text())
    found: list[ast.AST] = [tree]
    for node in ast.walk(tree):
        text = written(node)
        if "import " in text:
            with suppress(SyntaxError):  # prose, or a part of a script
                script = ast.parse(textwrap.dedent(text))
                found.append(ast.increment_lineno(script, getattr(node, "lineno", 1) - 1))
    return found


def written(node: ast.AST) -> str:
    """The text of a string; of an f-string with a name wherever something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or "filled_in" for part in node.values)
    return ""


def names(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The private names that are asked of something else than `self`, `cls` and `super()`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield node, node.attr
        elif isinstance(node, ast.Call) and called(node) in BY_NAME:
            for argument in node.args[1:2]:
                if PRIVATE.fullmatch(text := written(argument)):
                    yield argument, text
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node, one.name) for one in node.names if PRIVATE.fullmatch(one.name))


def called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def defined(tree: ast.AST) -> Iterator[str]:
    """The private names that a file gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
            yield node.attr


def names_of_the_package() -> set[str]:
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


@cache
def used() -> dict[str, list[str]]:
    """Each private name that is not a file's own, or is one of the package's too, and where."""
    theirs = names_of_the_package()
    found: dict[str, list[str]] = {}
    for path in files():
        own: set[str] = set()
        for tree in trees(path):
            own |= {name for name in defined(tree) if name not in theirs}
            for node, name in names(tree):
                if name not in own:
                    found.setdefault(name, []).append(place(path, node, name))
    return found


def test_no_test_asks_for_a_private_name_of_the_package() -> None:
    places = [place for name, where in used().items() if name not in REMAIN for place in where]
    assert places == [], "have tests/inside.py know it, or look from outside"


def test_what_is_not_used_any_more_is_not_on_the_list() -> None:
    assert sorted(REMAIN.keys() - used().keys()) == []


def test_nothing_is_known_that_no_test_asks_for() -> None:
    known = {node.name for node in ast.parse(INSIDE.read_text()).body if is_public_function(node)}
    texts = "\n".join(path.read_text() for path in [*files(), INSIDE])
    times = Counter(re.findall(r"\w+", texts))
    assert {name for name in known if times[name] < 2} == set()


def is_public_function(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def modules(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The modules that are imported or, for a patch, named by a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module
            for one in node.names:
                folder = ROOT / node.module.replace(".", "/")
                if (folder / f"{one.name}.py").exists():
                    yield node, f"{node.module}.{one.name}"
        elif re.fullmatch(r"[\w.]+", text := written(node)):
            yield node, text


def test_no_test_names_a_module_that_moves_when_the_package_is_rebuilt() -> None:
    places = [
        place(path, node, module)
        for path in files()
        for tree in trees(path)
        for node, module in modules(tree)
        if module.startswith(INNER) and not NAMED_BY_USERS.match(module)
    ]
    assert places == [], "have tests/inside.py know it"


def test_a_private_name_is_found_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(
        "from django_connpool.pool.slot import _secret\n"
        "class Mine:\n    def f(self): return self._own\n"
        "pool._slots, mock.patch.object(pool, '_hire'), getattr(pool, '_lock')\n"
        "run('''\n    import os\n    print(pool._queue)\n''')\n"
        "run(f'''\n    import os\n    print({1}, pool._idle)\n''')\n"
    )
    found = {name for tree in trees(path) for _, name in names(tree)}
    assert found == {"_secret", "_slots", "_hire", "_lock", "_queue", "_idle"}
    found = {name for tree in trees(path) for _, name in modules(tree) if name.startswith(INNER)}
    assert found == {"django_connpool.pool.slot"}
