"""Where the package uses private names of psycopg's: in the files that are named as such.

Those of CPython's are in tests/pool/test_cpython.py. Of others only Django's are used.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from .test_privates import PACKAGE, PRIVATE, defined, names

# Each name has a test of its meaning in tests/sessions/test_private.py.
PSYCOPGS_FILES = {
    "session/private.py",
    "session/fronts.py",  # before each statement, with no call in between
    "session/twin.py",  # what psycopg's async connection does with each of them
    "session/riding.py",  # in the stead of what sends a transaction's first statement
}
PSYCOPGS = {
    *("_autocommit", "_adapters", "_begin_statement", "_prepared", "_num_transactions", "_tpc"),
    *("_dumpers", "_dumpers_by_oid", "_loaders", "_to_flush", "_exec_command"),
    *("_conn", "_query", "_tx", "_closed", "_last_query", "_row_factory", "_reset"),
    *("_maybe_prepare_gen", "_execute_send", "_get_prepared", "_get_tx_start_command"),
    *("_check_results", "_set_results"),
    *("_start_query", "_start_copy_gen", "_convert_query", "_raise_for_result"),
    *("_notify_handler", "_notify_handlers", "_notifies_backlog"),
    *("_make_declare_statement", "_fetch_gen", "_scroll_gen", "_close_gen", "_loaders_changed"),
}  # but for `_pool`, which psycopg has for pools
DJANGOS = {"_prepare_cursor", "_get_test_db_name", "_non_atomic_requests"}


@cache
def files() -> dict[str, ast.Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in paths}


def slots(tree: ast.AST) -> set[str]:
    """The names of the attributes that a file's own objects have."""
    return {
        each.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"
        for each in ast.walk(node.value)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def asked(tree: ast.AST) -> set[str]:
    """The private names that a file asks of others, and those that stand in it as a text."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    written = {text for text in texts if isinstance(text, str) and PRIVATE.fullmatch(text)}
    return {name for _, name in names(tree)} | (written - slots(tree))


def owned(tree: ast.AST) -> Iterator[str]:
    """Those that are the package's, also where it hangs something on what is not its own."""
    yield from defined(tree)
    yield from slots(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_psycopgs_private_names_stand_in_the_files_named_as_such() -> None:
    others = {file: asked(tree) & PSYCOPGS for file, tree in files().items()}
    found = {file: used for file, used in others.items() if used and file not in PSYCOPGS_FILES}
    assert found == {}, "have session/private.py know it"


def test_whose_the_other_private_names_are_is_known() -> None:
    own = {name for tree in files().values() for name in owned(tree)}
    unknown = {
        (file, name)
        for file, tree in files().items()
        if file != "process/cpython.py"
        for _, name in names(tree)
        if name not in own | PSYCOPGS | DJANGOS
    }
    assert unknown == set()


@pytest.mark.parametrize("file", sorted(PSYCOPGS_FILES))
def test_a_file_named_as_such_has_some(file: str) -> None:
    assert asked(files()[file]) & PSYCOPGS
