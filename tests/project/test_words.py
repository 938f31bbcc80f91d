"""What comments and docstrings of the package name is there: files, and names in backticks."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .test_house import PACKAGE, assert_only, sources

# A file is named from the package's folder (`session/watch.py`), or by its name alone next door; a
# test from the project's.
FILE = re.compile(r"[\w./-]+\.py\b")
FILES_OF_OTHERS = {"manage.py", "gunicorn.conf.py", "gunicorn/__main__.py"}
FILES_REMAIN: set[str] = set()

QUOTED = re.compile(r"`+([^`\n]+)`+")
PATH = re.compile(r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?=\(|$)")
# Names of others that no line of the package uses: of Python, Django, psycopg, libpq, PostgreSQL.
NAMES_OF_OTHERS = {
    "Atomic": "Django's `atomic()`",
    "TestCase": "Django's",
    "finally": "Python",
    "pg_use_reserved_connections": "a role of PostgreSQL",
    "server_side_binding": "Django's",
    "socket_close": "psycopg",
    "target_session_attrs": "libpq",
    "try": "Python",
}
# Ends and parts of names, and what stands for any name.
NOT_NAMES = {"_ms": "the end of keys", "app": "of a user's", "shop": "of a user's"}


def texts(file: str) -> Iterator[str]:
    """The comments and docstrings of a file."""
    source = io.StringIO((PACKAGE / file).read_text())
    for token in tokenize.generate_tokens(source.readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    yield from docstrings(sources()[file])


def docstrings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node, clean=False) or ""


@cache
def names() -> set[str]:
    """All that the package's code names, and the words in its strings: attributes, SQL, keys."""
    found: set[str] = set()
    for tree in sources().values():
        prose = set(docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                if isinstance(node.value, (str, bytes)) and node.value not in prose:
                    text = (
                        node.value if isinstance(node.value, str) else node.value.decode("latin1")
                    )
                    found.update(re.findall(r"\w+", text))
                continue
            for _, value in ast.iter_fields(node):
                if isinstance(value, str):
                    found.update(value.split("."))
    return found


def is_there(file: str, other: str) -> bool:
    folders = [PACKAGE, PACKAGE / Path(file).parent]
    folders += [PACKAGE.parent] if other.startswith("tests/") else []
    return any((folder / other).exists() for folder in folders)


def test_each_file_that_is_named_is_there() -> None:
    gone = {
        f"{file}: {other}"
        for file in sources()
        for text in texts(file)
        for other in FILE.findall(text)
        if other not in FILES_OF_OTHERS and not is_there(file, other)
    }
    assert_only(gone, FILES_REMAIN, "name it from the package's folder: session/watch.py")


def test_each_name_in_backticks_is_there() -> None:
    gone = {f"{file}: {name}" for file in sources() for text in texts(file) for name in lost(text)}
    assert gone == set(), "it is named otherwise by now; or add it to NAMES_OF_OTHERS"


def lost(text: str) -> Iterator[str]:
    for quoted in QUOTED.findall(text):
        if (path := PATH.match(quoted)) and not quoted.endswith(".py"):
            for name in path[0].split("."):
                if name in NOT_NAMES:
                    break
                if name not in names() and name not in NAMES_OF_OTHERS:
                    yield name


def test_what_is_not_named_any_more_is_not_on_the_list() -> None:
    written = "\n".join(text for file in sources() for text in texts(file))
    listed = [*FILES_OF_OTHERS, *NAMES_OF_OTHERS, *NOT_NAMES]
    assert [name for name in listed if name not in written] == []


def test_a_name_that_is_gone_is_seen() -> None:
    assert list(lost("as `_no_such_thing`, `pool._neither()`, `SELECT nothing_of_ours`")) == [
        "_no_such_thing",
        "_neither",
    ]
    assert not is_there("pool/slot.py", "statements.py")
    assert is_there("pool/slot.py", "line.py")
    assert is_there("pool/slot.py", "session/statements.py")
