"""An interrupt at a chosen line of the code under test."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import BuiltinFunctionType, FrameType
from typing import Any


class Interrupter:
    """Raises `error` at the n-th line of the code under test that this thread runs.

    `concerns` tells which frames are of that code, `is_safe` where no interrupt strikes. `where`
    says afterwards at which lines it struck, innermost first; it is empty when there were fewer.
    """

    def __init__(
        self,
        n: int,
        error: type[BaseException],
        concerns: Callable[[FrameType], bool],
        is_safe: Callable[[FrameType], bool],
    ) -> None:
        self.left = n
        self.error = error
        self.where = ""
        self._concerns = concerns
        self._is_safe = is_safe

    def __enter__(self) -> Interrupter:
        self._before = sys.gettrace()  # whoever measures coverage goes on afterwards
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._concerns(frame):
            return None
        if event == "line" and not self._is_safe(frame):
            self.left -= 1
            if not self.left:
                sys.settrace(None)
                self.where = " < ".join(trail(frame, self._concerns))
                self.strike()
                return None
        return self._trace

    def strike(self) -> None:
        raise self.error


def trail(frame: FrameType | None, concerns: Callable[[FrameType], bool]) -> list[str]:
    """The lines of the code under test that are running, innermost first."""
    lines = []
    while frame is not None and concerns(frame):
        lines.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return lines


# -- Where no interrupt strikes -----------------------------------------------------------
#
# The interpreter looks for signals after it has called what is not Python code, and at the start
# of loops and of Python functions: not between any two lines. Lines before which it does not look
# are found by the shape of the code around them, whatever they say.


def is_safe(frame: FrameType) -> bool:
    """Whether no interrupt strikes before this line, because the interpreter does not look there.

    1. `try:` does nothing.
    2. A `finally` that gives back first what the `try` began with (`lock.acquire()`), or counts
       back what was counted before it. There is nothing between it and the body.
    3. The end of a block that holds a lock: a second look at the line of the `with`, with the lock
       in this thread's hand.
    4. What catches everything and first makes a note by a call of the interpreter's own code: all
       up to that call. If that is Python code, or something else is called first, none of it.
    5. In an `except` clause a `return` that computes nothing: an error that is raised there by a
       trace function has the interpreter believe that the one before is still being handled.
    """
    shape = Shape.of(frame.f_code.co_filename)
    line = frame.f_lineno
    if line in shape.nothing:
        return True
    note = shape.notes.get(line)
    if note is not None and isinstance(_named(note, frame), BuiltinFunctionType):
        return True
    lock = _named(shape.blocks[line], frame) if line in shape.blocks else None
    if hasattr(lock, "_is_owned"):
        return bool(lock._is_owned())
    return hasattr(lock, "locked") and bool(lock.locked())


class Shape:
    """What the lines of a module are to each other."""

    def __init__(self, tree: ast.Module) -> None:
        self.nothing: set[int] = set()  # lines before which the interpreter never looks
        self.notes: dict[int, ast.expr] = {}  # nor before these, if this is not Python code
        self.blocks: dict[int, ast.expr] = {}  # lines that begin a block with this
        for node in ast.walk(tree):
            if isinstance(node, ast.Try):
                self.nothing.add(node.lineno)
                if node.finalbody and _gives_back(node):
                    self.nothing.add(_innermost(node.finalbody[0]).lineno)
            elif isinstance(node, ast.ExceptHandler):
                self._look_at_handler(node)
            elif isinstance(node, ast.With) and _is_named(node.items[0].context_expr):
                self.blocks[node.lineno] = node.items[0].context_expr
            for before, statement in _pairs(node):
                if _counts_back(before, statement):
                    self.nothing.add(statement.finalbody[0].lineno)

    @staticmethod
    @cache
    def of(filename: str) -> Shape:
        return Shape(ast.parse(Path(filename).read_text()))

    def _look_at_handler(self, handler: ast.ExceptHandler) -> None:
        for node in ast.walk(handler):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant):
                self.nothing.add(node.lineno)
        calls = _calls(handler)
        if not calls or not _catches_everything(handler):
            return
        first = min(calls, key=lambda call: (call.lineno, call.col_offset))
        if _is_named(first.func) and len(_calls(first)) == 1:  # with nothing called for it before
            for line in range(handler.lineno, first.lineno + 1):
                self.notes[line] = first.func


def _calls(node: ast.AST) -> list[ast.Call]:
    return [one for one in ast.walk(node) if isinstance(one, ast.Call)]


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or ast.unparse(handler.type) == BaseException.__name__


def _innermost(statement: ast.stmt) -> ast.stmt:
    """The first statement of a `try`, or of one in it."""
    return _innermost(statement.body[0]) if isinstance(statement, ast.Try) else statement


def _gives_back(node: ast.Try) -> bool:
    """Whether the last part releases first of all what the first part acquires first of all."""
    taken = _called_of(_innermost(node.body[0]), "acquire")
    given = _called_of(_innermost(node.finalbody[0]), "release")
    return taken is not None and taken == given


def _called_of(statement: ast.stmt, method: str) -> str | None:
    """The name of what this method is called of in a statement that does no more than that."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        if isinstance(called, ast.Attribute) and called.attr == method and _is_named(called.value):
            return ast.unparse(called.value)
    return None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.stmt, ast.Try]]:
    """Each `try` in a block and the statement before it."""
    block = getattr(node, "body", None)
    if isinstance(block, list):
        for before, statement in pairwise(block):
            if isinstance(statement, ast.Try) and statement.finalbody:
                yield before, statement


def _counts_back(before: ast.stmt, node: ast.Try) -> bool:
    after = node.finalbody[0]
    return (
        isinstance(before, ast.AugAssign)
        and isinstance(after, ast.AugAssign)
        and ast.dump(before.target) == ast.dump(after.target)
    )


def _is_named(expression: ast.expr) -> bool:
    """Whether it is `a` or `a.b.c`, so that looking at it calls nothing."""
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    return isinstance(expression, ast.Name)


def _named(expression: ast.expr, frame: FrameType) -> Any:
    """What `a.b.c` is in this frame at this moment; None if it is nothing yet."""
    if isinstance(expression, ast.Attribute):
        return getattr(_named(expression.value, frame), expression.attr, None)
    assert isinstance(expression, ast.Name)
    return frame.f_locals.get(expression.id, frame.f_globals.get(expression.id))
