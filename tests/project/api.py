"""What of the package is public, read from the sources: `python -m tests.project.api --write`.

It is written to `api.txt`, so that a pull request shows what it changes for users. What each of the
names means, and for how long it stays, tells docs/api.md.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "django_connpool"
SNAPSHOT = Path(__file__).with_name("api.txt")

SIGNALS = (
    *("borrow_timed_out", "connecting", "connection_closed", "connection_leaked"),
    *("connection_waited", "outage_began", "outage_ended", "pool_created"),
)

# What users import, from which module, and where it is written down.
NAMES: dict[str, dict[str, str]] = {
    "django_connpool": {
        "ConnectionPool": "connection_pool.py",
        "PoolClosed": "errors.py",
        "PoolTimeout": "errors.py",
        "TooManyRequests": "errors.py",
        "hold": "borrowing.py",
        "listen": "listening.py",
        "pinned": "borrowing.py",
        "pools": "registry.py",
        "priority": "borrowing.py",
        "release": "borrowing.py",
        "released": "borrowing.py",
        "scope": "borrowing.py",
        "warm": "borrowing.py",
    },
    "django_connpool.aio": {
        "Pool": "aio/pool.py",
        "create_pool": "aio/pool.py",
        "listen": "listening.py",
        "pools": "aio/databases.py",
    },
    "django_connpool.backends.mixin": {"PooledDatabaseWrapperMixin": "backends/wrapper.py"},
    "django_connpool.backends.postgis.base": {"DatabaseWrapper": "backends/postgis/base.py"},
    "django_connpool.backends.postgresql.base": {"DatabaseWrapper": "backends/postgresql/base.py"},
    "django_connpool.contrib.asgi": {"saying_goodbye": "contrib/asgi.py"},
    "django_connpool.contrib.health_check": {"Pools": "contrib/health_check.py"},
    "django_connpool.contrib.otel": {"ConnectionPoolInstrumentor": "contrib/otel.py"},
    "django_connpool.contrib.prometheus": {
        "metrics": "contrib/prometheus.py",
        "register": "contrib/prometheus.py",
    },
    "django_connpool.contrib.toolbar": {"ConnectionsPanel": "contrib/toolbar.py"},
    "django_connpool.contrib.watchman": {"pools": "contrib/watchman.py"},
    "django_connpool.listening": {
        "Listener": "listening.py",
        "Notification": "session/channels.py",
    },
    "django_connpool.middleware": {"ConnectionPoolMiddleware": "middleware.py"},
    "django_connpool.signals": dict.fromkeys(SIGNALS, "signals.py"),
    "django_connpool.status.hands": {"send": "status/hands.py"},
    "django_connpool.testing": {
        "assert_session_stays_clean": "testing.py",
        "differences": "testing.py",
        "session_state": "testing.py",
    },
}
# Of these classes only the name is public: the rest is Django's, or another package's, or ours.
ONLY_NAMES = {
    *("ConnectionPoolInstrumentor", "ConnectionPoolMiddleware", "ConnectionsPanel"),
    *("DatabaseWrapper", "PooledDatabaseWrapperMixin", "Pools"),
}
# For the rest of the package, beside what users call.
INTERNAL = {
    "ConnectionPool": {"events", "places", "locked_after", "is_awaited"},
    "Listener": {"__init__", "is_ready", "is_behind", "put", "wake"},
    "Pool": {"__init__", "give_back"},
}

# Of what a class inherits, what users call.
INHERITED = {"ConnectionPool": ("Pool", "pool/pool.py", {"getconn", "putconn"})}

# The other promises: where they are, and which texts of the file they are.
TEXTS = {
    "settings": ("**/*.py", r"\bCONNPOOL_[A-Z_]*[A-Z]\b"),
    "system checks": ("**/*.py", r'"((?:django_connpool\.)?[EW]\d{3})"'),
    "options and words of poolstatus": (
        "management/commands/poolstatus.py",
        r'add_argument\(\s*"([\w-]+)"',
    ),
    "commands to pools": ("status/hands.py", r'(?m)^    "([a-z-]+)": _\w+,$'),
    "loggers": ("**/*.py", r'(?:getLogger|bursts\.logger)\("([\w.]+)"\)'),
    "metrics": ("status/metrics.py", r'"(db_client_connection_\w+)"'),
    "names of URLs": ("urls.py", r'name="(\w+)"'),
    "pool options": ("readers.py", r'(?m)^    "(\w+)": \w'),
}


# What those without a dot begin with.
PREFIX = {"system checks": f"{PACKAGE.name}.", "loggers": f"{PACKAGE.name}.pool."}


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        SNAPSHOT.write_text(text())
    else:
        print(text(), end="")


def text() -> str:
    """All that is public, one thing a line."""
    lines: list[str] = []
    for module, names in NAMES.items():
        lines += ["", f"# from {module}"]
        for name, file in names.items():
            lines += described(name, file)
    for title, (files, pattern) in TEXTS.items():
        found = {
            one for path in PACKAGE.glob(files) for one in re.findall(pattern, path.read_text())
        }
        before = PREFIX.get(title, "")
        whole = {one if not before or "." in one else before + one for one in found}
        lines += ["", f"# {title}", *sorted(whole)]
    lines += ["", "# the status document (version 1)", *sorted(document())]
    return "\n".join(lines).lstrip() + "\n"


def described(name: str, file: str) -> Iterator[str]:
    """A name of a file's, with its signature; of a class what users call, too."""
    node = defined(name, file)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield signature(node, "", set())
    elif isinstance(node, ast.ClassDef) and name not in ONLY_NAMES:
        yield f"class {name}"
        found = [*members(node, INTERNAL.get(name, set()))]
        if name in INHERITED:
            base, where, wanted = INHERITED[name]
            parent = defined(base, where)
            assert isinstance(parent, ast.ClassDef)
            parent.body = [part for part in parent.body if getattr(part, "name", "") in wanted]
            parent.name = name
            found += members(parent, set())
        yield from sorted(found)
    else:
        yield name


def defined(name: str, file: str) -> ast.stmt:
    """Where a file gives a name its meaning, at its top."""
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if getattr(node, "name", None) == name or name in targets(node):
            return node
    raise LookupError(f"{file} has no {name}")


def targets(node: ast.stmt) -> list[str]:
    """The names that an assignment or an import makes."""
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.ImportFrom):
        return [one.asname or one.name for one in node.names]
    return []


def members(node: ast.ClassDef, internal: set[str]) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if part.name not in internal and (part.name == "__init__" or part.name[0] != "_"):
                yield f"    {signature(part, node.name, internal)}"
        else:
            for name in targets(part):
                if name[0] != "_" and name not in internal:
                    yield f"    {node.name}.{name}"


def signature(
    node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, internal: Iterable[str]
) -> str:
    kinds = {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in node.decorator_list}
    name = f"{owner}.{node.name}".lstrip(".").removesuffix(".__init__")
    if "property" in kinds:
        return f"{name}: {ast.unparse(node.returns) if node.returns else ''}"
    arguments = node.args
    kept = [
        (argument, default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if argument.arg not in internal
    ]
    arguments.kwonlyargs = [argument for argument, _ in kept]
    arguments.kw_defaults = [default for _, default in kept]
    if owner and "staticmethod" not in kinds:
        del (arguments.posonlyargs or arguments.args)[0]
    returns = ast.unparse(node.returns) if node.returns else ""
    is_async = isinstance(node, ast.AsyncFunctionDef) and "asynccontextmanager" not in kinds
    ends = f" -> {returns}" if returns and not name.endswith(owner or "\0") else ""
    return f"{'await ' if is_async else ''}{name}({ast.unparse(arguments)}){ends}"


def document() -> Iterator[str]:
    """The keys that a program may read."""
    for node in ast.parse((PACKAGE / "status/document.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name.removeprefix('_Later')}.{key}" for key in keys(node))


def keys(node: ast.ClassDef) -> Iterator[str]:
    return (ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign))


if __name__ == "__main__":
    main()
