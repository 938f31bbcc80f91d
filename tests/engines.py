"""A stand-in for engines that speak PostgreSQL's language in part: a proxy before PostgreSQL.

It answers as their manuals say that they do: it does not know some statements, says nothing of its
processes and settings, and ends connections without a word. No such engine was at hand.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from tests.cluster import Server
from tests.proxy import Proxy

_SINGLE = (b"N", b"S", b"G")  # the answers to the question for TLS or GSS
_QUERY, _PARSE, _STATUS = b"Q", b"P", b"S"
_NEEDED = (b"client_encoding\0", b"server_version\0")


class Engine(Proxy):
    """`unknown` are expressions of what it does not know, each with its refusal: SQLSTATE and text.

    `untold` are names of messages that it does not send: "K" its process, "S" its settings but for
    two, without which psycopg crashes. `asked` are the statements that came.
    """

    def __init__(
        self, server: Server, unknown: dict[str, tuple[str, str]], untold: str = ""
    ) -> None:
        super().__init__(server)
        self.asked: list[str] = []
        self._unknown = {re.compile(text, re.IGNORECASE): said for text, said in unknown.items()}
        self._untold = untold.encode()
        self.rewrite = self._asked  # type: ignore[method-assign]
        self.answer = self._told  # type: ignore[method-assign]

    def _asked(self, data: bytes) -> bytes:
        if data[:1] == b"\0":  # as a connection begins
            return data
        return b"".join(map(self._replaced, _messages(data)))

    def _replaced(self, message: bytes) -> bytes:
        kind, body = message[:1], message[5:]
        if kind == _QUERY:
            head, query, tail = b"", body.rstrip(b"\0"), b"\0"
        elif kind == _PARSE:
            name, query, tail = body.split(b"\0", 2)
            head, tail = name + b"\0", b"\0" + tail
        else:
            return message
        text = query.decode("utf-8", "replace")
        self.asked.append(text)
        for unknown, (state, said) in self._unknown.items():
            if unknown.search(text):
                raising = f"DO $$ BEGIN RAISE EXCEPTION '{said}' USING ERRCODE = '{state}'; END $$"
                return _message(kind, head + raising.encode() + tail)
        return message

    def _told(self, data: bytes) -> bytes:
        if data in _SINGLE or not self._untold:
            return data
        return b"".join(each for each in _messages(data) if self._tells(each))

    def _tells(self, message: bytes) -> bool:
        kind = message[:1]
        return kind not in self._untold or (kind == _STATUS and message[5:].startswith(_NEEDED))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _messages(data: bytes) -> Iterator[bytes]:
    """What was read in one piece, in messages; the rest as it is."""
    while len(data) >= 5:
        end = 1 + struct.unpack("!I", data[1:5])[0]
        yield data[:end]
        data = data[end:]
    if data:
        yield data


UNSUPPORTED: Any = "0A000"
UNDEFINED: Any = "42883"
SYNTAX: Any = "42601"
