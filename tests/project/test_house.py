"""The house: which room may know which, how large a file may be, how many doors there are.

What the sources do not keep to yet stands in the tables named `..._REMAIN` and in the numbers: they
may only become shorter and lower. A test fails when something new breaks a rule, and also when
something on a list keeps to it by now: take it off then. Imports count wherever they stand: at the
top, in a function, and for type checking only.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "django_connpool"

# From the ground up. A room is a folder, or a file of the package's own folder (`__init__` has the
# names that users import). What stands on one floor knows nothing else that stands there or above.
FLOORS = (
    {"process", "redaction", "borrower", "signals", "runners", "deployment"},
    {"pool", "session"},
    {"errors", "places"},
    {"block"},
    {"connection_pool"},
    {"readers"},
    {"conf", "identity", "functions", "scopes", "holders"},
    {"bounds"},
    {"registry"},
    {"requests", "switchboard"},
    {"status", "listening"},
    {"aio"},
    {"site_checks"},
    {"checks"},
    {"backends"},
    {"borrowing", "overload"},
    {"__init__"},
    {"middleware", "tasks", "contrib", "testing"},
    {"management", "web"},
    {"urls", "admin"},
    {"apps"},
)

# Other people's packages. Rooms that are not named here may know Django and psycopg.
FOREIGN: dict[str, set[str]] = {
    "pool": set(),
    "places": set(),
    "process": set(),
    "redaction": {"psycopg"},
    "session": {"psycopg"},
    "contrib": {
        *("django", "celery", "debug_toolbar", "health_check", "opentelemetry"),
        *("prometheus_client", "sentry_sdk"),
    },
}
FOREIGN_ELSEWHERE = {"asgiref", "django", "psycopg"}

LONGEST = 400  # lines of a file
LINES = 25_040
LEEWAY = 300  # lines below that, from which on the number has to be lowered
DOORS = 6  # what catches BaseException, and `finally` blocks that mend; 6 are meant to remain

IMPORTS_REMAIN: set[str] = set()
CIRCLES_REMAIN: set[str] = set()
FOREIGN_REMAIN: set[str] = set()
LONG_REMAIN: set[str] = set()
UNTOLD_REMAIN: set[str] = set()

# Each `finally`, by its file and function. Those that mend bring to rest what somebody was
# interrupted in, as a door does, and are counted as such.
MENDING: set[str] = set()
# These end what their `try` began: a lock, a mark, a block of somebody's work.
ENDING: set[str] = {
    "aio/pool.py: Acquire.__aexit__",
    "backends/cursors.py: Rebinding.close",
    "backends/cursors.py: Rebinding.execute",
    "backends/holding.py: Holding._keep_during",
    "backends/holding.py: Holding._run_foreign_init",
    "backends/offering.py: Offering.keeping",
    "backends/operations.py: pooled.DatabaseOperations.compose_sql",
    "backends/wrapper.py: PooledDatabaseWrapperMixin._at_savepoint",
    "backends/wrapper.py: PooledDatabaseWrapperMixin._end_transaction",
    "backends/stacked.py: _floor.on_floor.method",
    "borrowing.py: hold",
    "borrowing.py: priority",
    "borrowing.py: scope.__aexit__",
    "borrowing.py: scope.__exit__",
    "block.py: Loan.__exit__",
    "listening.py: Listener._await",
    "listening.py: Listener._wait",
    "middleware.py: ConnectionPoolMiddleware.__call__",
    "middleware.py: ConnectionPoolMiddleware._handle",
    "middleware.py: _each",
    "middleware.py: _each_async",
    "pool/awaiting.py: Awaited._begin_loan",
    "pool/explain.py: locate",
    "pool/locking.py: is_locked",
    "pool/news.py: News.tell",
    "pool/pool.py: Pool._wait_for_slot",
    "pool/pool.py: Pool.getconn",
    "pool/pool.py: Pool.putconn",
    "pool/tasks.py: TaskWaiter.wait_its_turn",
    "process/background.py: Background.park",
    "process/userline.py: _above",
    "session/credentials.py: Credentials._ask_once",
    "session/setup.py: recording",
    "session/fronts.py: WatchedPlain.stream",
    "session/riding.py: _send_together",
    "session/setup.py: repeating",
    "session/private.py: telling_of_rollbacks",
    "session/closing.py: say_goodbye",
    "session/twin.py: Twin.wait",
    "signals.py: Events.tell",
    "testing.py: _left_behind",
    "testing.py: _new_session",
}


# -- What the sources say -----------------------------------------------------------------


@cache
def sources() -> dict[str, ast.Module]:
    """Each file, by its path below the package."""
    found = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in found}


def lines(file: str) -> int:
    return len((PACKAGE / file).read_text().splitlines())


def module(file: str) -> str:
    """The dotted name of a file's module."""
    parts = [PACKAGE.name, *Path(file).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def imported(file: str) -> Iterator[str]:
    """The dotted names that a file imports: of `from a.b import c` it is `a.b.c`."""
    path = Path(module(file).replace(".", "/"))
    package = (path if file.endswith("__init__.py") else path.parent).parts
    for node in ast.walk(sources()[file]):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, one.name]) for one in node.names)


@cache
def known() -> dict[str, set[str]]:
    """The files that each file knows."""
    files = {module(file): file for file in sources()}
    found: dict[str, set[str]] = {}
    for file in sources():
        # A name that is no module is one of the module before the last dot.
        names = (name if name in files else name.rpartition(".")[0] for name in imported(file))
        found[file] = {files[name] for name in names if name in files}
    return found


def reached(file: str) -> set[str]:
    """The files that a file knows, and those that they know, and so on."""
    found: set[str] = set()
    ahead = list(known()[file])
    while ahead:
        if (one := ahead.pop()) not in found:
            found.add(one)
            ahead += known()[one]
    return found


def in_functions(node: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Each part of a file, with the name of the function that it stands in."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from in_functions(part, f"{name}.{part.name}".strip("."))
        else:
            yield name, part
            yield from in_functions(part, name)


def catches_all(node: ast.AST) -> bool:
    """Whether it is an `except` or a `suppress()` that also an interrupt ends in."""
    if isinstance(node, ast.ExceptHandler):
        caught = [] if node.type is None else [node.type]
        if not caught:
            return True
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        caught = node.args
    else:
        return False
    return any(
        isinstance(one, ast.Name) and one.id == "BaseException"
        for part in caught
        for one in ast.walk(part)
    )


def assert_only(found: Iterable[str], remain: set[str], what: str) -> None:
    """Nothing is found but what remains to be done, and all of that is found."""
    found = set(found)
    assert not found - remain, "\n".join([what, *sorted(found - remain)])
    assert not remain - found, "\n".join(["take it off the list:", *sorted(remain - found)])


# -- The rules ----------------------------------------------------------------------------


def test_each_room_has_its_floor() -> None:
    rooms = Counter(name for floor in FLOORS for name in floor)
    assert max(rooms.values()) == 1
    assert_only({room(file) for file in sources()}, set(rooms), "put it on one of FLOORS")


def test_imports_only_go_down() -> None:
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = {
        f"{file} knows {room(other)}"
        for file, others in known().items()
        for other in others
        if room(other) != room(file) and floor_of[room(other)] >= floor_of[room(file)]
    }
    assert_only(wrong, IMPORTS_REMAIN, "a room knows only what stands below it: see FLOORS")


def test_no_imports_go_in_a_circle() -> None:
    circles = {file for file in sources() if file in reached(file)}
    assert_only(circles, CIRCLES_REMAIN, "each of these files is known by what it knows")


def test_a_room_knows_only_those_other_packages_that_it_may() -> None:
    own = {*sys.stdlib_module_names, PACKAGE.name}
    wrong = {
        f"{file} knows {name}"
        for file in sources()
        for name in {name.split(".")[0] for name in imported(file)} - own
        if name not in FOREIGN.get(room(file), FOREIGN_ELSEWHERE)
    }
    assert_only(wrong, FOREIGN_REMAIN, "see FOREIGN")


def test_no_file_is_long() -> None:
    long = {file for file in sources() if lines(file) > LONGEST}
    assert_only(long, LONG_REMAIN, f"more than {LONGEST} lines")


def test_the_first_line_of_a_file_says_what_it_is_for() -> None:
    untold = {
        file
        for file, tree in sources().items()
        if tree.body and not (ast.get_docstring(tree) or "").split("\n")[0].endswith((".", "?"))
    }
    assert_only(untold, UNTOLD_REMAIN, "begin with a docstring whose first line is a sentence")


def test_the_package_does_not_grow_unnoticed() -> None:
    total = sum(map(lines, sources()))
    assert total <= LINES, "shorten something, or say in the commit why LINES becomes higher"
    assert total > LINES - LEEWAY, f"it has become shorter: set LINES to {total}"


def test_there_are_no_more_doors() -> None:
    found = [
        f"{file}: {name}"
        for file, tree in sources().items()
        for name, node in in_functions(tree)
        if catches_all(node)
    ]
    found += sorted(MENDING)
    assert len(found) <= DOORS, "\n".join(found)
    assert len(found) == DOORS, f"there are fewer: set DOORS to {len(found)}"


def test_each_finally_is_known_to_mend_or_to_end() -> None:
    assert not MENDING & ENDING
    found = {
        f"{file}: {name}"
        for file, tree in sources().items()
        for name, node in in_functions(tree)
        if isinstance(node, ast.Try) and node.finalbody
    }
    assert_only(found, MENDING | ENDING, "does it mend, or only end what its `try` began?")


# -- That the rules can see ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "doors"),
    [
        ("try: f()\nexcept BaseException: g()", 1),
        ("try: f()\nexcept: g()", 1),
        ("try: f()\nexcept (ValueError, BaseException) as e: g()", 1),
        ("try: f()\nexcept KeyboardInterrupt: print()", 0),  # how a program is told to end
        ("with contextlib.suppress(BaseException): f()", 1),
        ("def f():\n try: g()\n except Exception: raise BaseException()", 0),
    ],
)
def test_a_door_is_seen(text: str, doors: int) -> None:
    assert sum(catches_all(node) for _, node in in_functions(ast.parse(text))) == doors


def test_an_import_is_seen_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from . import one\nfrom .two import thing\n"
        "from ..above import other\n"
        "import django_connpool.conf\n"
        "if TYPE_CHECKING:\n    from .three import Type\n"
        "def f():\n    from .four import g\n"
    )
    files = ["above", "conf", *(f"room/{name}" for name in ("one", "two", "three", "four", "it"))]
    trees = {f"{name}.py": ast.parse(text if name == "room/it" else "") for name in files}
    monkeypatch.setattr(sys.modules[__name__], "sources", lambda: trees)
    known.cache_clear()
    assert known()["room/it.py"] == trees.keys() - {"room/it.py"}
    known.cache_clear()
