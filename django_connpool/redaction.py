"""Texts that may leave the process: a statement without its values, an error without a statement.

What is not certain to be no value is left out: a message loses a word rather than keep one that
is somebody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from psycopg import Error, OperationalError

LONGEST = 200  # characters of a statement that are shown
_LONGEST_READ = 4000  # characters of it that are looked at

# In this order, at each place (PostgreSQL docs, "Lexical Structure"). What does not end is taken
# to its end. A name may hold digits and `$`, so names are read as a whole.
_TOKEN = re.compile(
    r"""
    (?P<comment>  --[^\n\r]* | /\*)
  | (?P<escaped>  [eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z))
  | (?P<text>     (?:[bBnNxX]|[uU]&)?'(?:[^']|'')*(?:'|\Z))
  | (?P<dollar>   \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
  | (?P<keep>     \$\d+ | %\(\w+\)[sbt] | %[sbt%] | (?:[uU]&)?"(?:[^"]|"")*(?:"|\Z) | [^\W\d][\w$]*)
  | (?P<number>   \.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?)
  | (?P<blank>    \s+)
  | (?P<other>    .)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# The value of a setting may be written as a name.
_SETS = re.compile(
    r"((?:^|;)\s*(?:SET\s+(?:(?:SESSION|LOCAL)\s+)?"
    r"|ALTER\s+(?:DATABASE|FUNCTION|PROCEDURE|ROLE|ROUTINE|SYSTEM|USER)\b[^;]*?\sSET\s+)"
    r"(?:TIME\s+ZONE|\"[^\"]*\"|[\w.]+))[^;]+",
    re.IGNORECASE,
)
_ITEM = r"(?:\?|%s|%\(\w+\)s|\$\d+)"
_LIST = re.compile(rf"({_ITEM})(?:\s*,\s*{_ITEM})+")
_ROWS = re.compile(r"(\([^()]*\))(?:\s*,\s*\([^()]*\))+")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\d+")


def without_values(statement: Any) -> str:
    """A statement of psycopg's (text, bytes, a Composable) for people to read, without its values.

    At most `LONGEST` characters on one line. Comments go too; of a list its first item stays.
    """
    if isinstance(statement, bytes):
        text = statement[:_LONGEST_READ].decode("utf-8", "replace")
    elif isinstance(statement, str):
        text = statement
    elif hasattr(statement, "as_string"):
        try:
            text = statement.as_string(None)
        except Exception:  # a value that only a connection could write down
            return type(statement).__name__
    else:
        return type(statement).__name__
    shown = " ".join("".join(_without_values(text[:_LONGEST_READ])).split())
    shown = _SETS.sub(r"\1 ?", shown)
    shown = _ROWS.sub(r"\1, …", _LIST.sub(r"\1, …", shown))
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _without_values(text: str) -> Iterator[str]:
    at = 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        kind = token.lastgroup
        if kind == "comment":
            yield " "
            if token[0] == "/*":
                at = _end_of_comment(text, at)
        elif kind in ("escaped", "text", "dollar", "number"):
            yield "?"
            if kind == "text" and "\\'" in token[0]:
                # It depends on standard_conforming_strings where this text ends.
                yield "…"
                return
        else:
            yield token[0]


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return at


def one_line(error: BaseException) -> str:
    """The text of an error, for a message that goes on after it, without statements and values.

    Of an answer to a statement only its first line is told, which names what is wrong: not the
    statement, nor the row. Errors of connecting are told as they are.
    """
    return " ".join(_text(error).split()) or type(error).__name__


def public(error: BaseException) -> BaseException:
    """The error, or one like it that does not hold the statement that it is about.

    For the cause of an error of the pool's, and for a log: both show the whole text.
    """
    if not any(_answer(link) for link in chain(error)):
        return error
    text = _text(error)
    try:
        copy = type(error)(text)
    except Exception:  # a class of the user's with arguments of its own
        copy = OperationalError(text)
    return copy.with_traceback(error.__traceback__)


def named(callback: Callable[..., Any]) -> str:
    """The name of a callback; its repr() may hold what it is to be called with."""
    while isinstance(callback, partial):
        callback = callback.func
    return getattr(callback, "__qualname__", None) or type(callback).__qualname__


def _text(error: BaseException) -> str:
    text = str(error)
    for link in chain(error):  # Django's and others' often have the text of psycopg's
        if _answer(link):
            text = text.replace(str(link), _first_line(link))
    return text


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what led to it, what led to that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> bool:
    """Whether it is what a server answered to a statement; to a connect libpq keeps no fields."""
    return isinstance(error, Error) and error.diag.sqlstate is not None


def _first_line(error: Any) -> str:
    text, state = error.diag.message_primary or "", error.diag.sqlstate
    if state.startswith("P0"):  # any text, put together of any values
        text = "raised by a function"
    elif state.startswith(("22", "42601")) and not text.startswith('role "'):
        text = _QUOTED.sub("?", text)  # values and syntax; other errors quote names
    return f"{text} ({state})"
