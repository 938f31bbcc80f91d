"""A listener that refuses in PostgreSQL's protocol, or says nothing at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


class FakeServer:
    """Answers every startup with `refusal`, a pair of SQLSTATE and text; with None it is silent.

    `answer_all` answers those it left without an answer. `attempts` counts the startups seen.
    Use it as a context manager.
    """

    def __init__(self) -> None:
        self.refusal: tuple[str, str] | None = None
        self.attempts = 0
        self._sockets: list[socket.socket] = []
        self._unanswered: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="fake-server", daemon=True)

    def __enter__(self) -> FakeServer:
        self._accepting.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _hang_up(self._listener)
        self._accepting.join()  # what it has just accepted is to be closed, too
        for sock in self._sockets:
            _hang_up(sock)

    def has_unanswered(self) -> bool:
        return bool(self._unanswered)

    def answer_all(self) -> None:
        """Send the refusal to those that were left without an answer."""
        assert self.refusal is not None
        while self._unanswered:
            self._refuse(self._unanswered.pop(), *self.refusal)

    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self._port} user=nobody dbname=nothing"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            while self._startup_code(sock) in (SSL_REQUEST, GSS_REQUEST):
                sock.sendall(b"N")
            self.attempts += 1
            if self.refusal is None:
                self._unanswered.append(sock)
            else:
                self._refuse(sock, *self.refusal)

    def _refuse(self, sock: socket.socket, sqlstate: str, text: str) -> None:
        sock.sendall(_error_response(sqlstate, text))
        sock.shutdown(socket.SHUT_RDWR)

    def _startup_code(self, sock: socket.socket) -> int:
        length, code = struct.unpack("!II", sock.recv(8, socket.MSG_WAITALL))
        sock.recv(length - 8, socket.MSG_WAITALL)
        return int(code)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _error_response(sqlstate: str, text: str) -> bytes:
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
    body = b"".join(f"{key}{value}\0".encode() for key, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body
