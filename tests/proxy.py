"""A TCP proxy before PostgreSQL, to make the network misbehave on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from psycopg.conninfo import make_conninfo

from tests.cluster import Server

PASS, BLACKHOLE = "pass", "blackhole"
RESET = struct.pack("ii", 1, 0)


class Cut(OSError):
    """What `answer` raises to have the connection end after some last bytes."""

    def __init__(self, last: bytes = b"") -> None:
        self.last = last


class Proxy:
    """Forwards a loopback port to a server until told otherwise; use it as a context manager.

    `latency` is added on the way to the server, in seconds. `accepted` counts connections since
    the start. `rewrite` is given what a client sends, and returns what the server gets; `answer`
    what the server sends, and returns what the client gets. It may take its time, or raise `Cut`.
    `pace` are seconds between two bytes of an answer.
    """

    pace = 0.0

    rewrite: Callable[[bytes], bytes] = staticmethod(bytes)
    answer: Callable[[bytes], bytes] = staticmethod(bytes)

    def __init__(self, server: Server) -> None:
        self.accepted = 0
        self.latency = 0.0
        self._server = server
        self._mode = PASS
        self._delay = 0.0
        self._port = 0
        self._listener: socket.socket | None = None
        self._links: dict[socket.socket, socket.socket | None] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        # Guards everything above; notified whenever the mode changes.
        self._changed = threading.Condition()

    def __enter__(self) -> Proxy:
        self.allow()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def params(self, **changes: Any) -> dict[str, str]:
        """Return libpq's parameters for the way through the proxy."""
        return self._server.params(**{"host": "127.0.0.1", "port": self._port, **changes})

    def dsn(self, **changes: Any) -> str:
        """Return the parameters as a libpq connection string."""
        return make_conninfo(**self.params(**changes))

    @property
    def connections(self) -> int:
        """How many connections go through the proxy now."""
        with self._changed:
            return len(self._links)

    @property
    def pumps(self) -> int:
        """How many threads still pass something on: none, once all have seen what `drop` did."""
        return sum(thread.is_alive() for thread in self._threads[1:])

    def allow(self) -> None:
        """Listen and forward everything, at once; what a black hole held flows again."""
        self._set(PASS, 0.0)
        if self._listener is None:
            self._listen()

    def lead_to(self, server: Server) -> None:
        """Forward new connections to another server, as a name does whose address changes."""
        self._server = server

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            # Closing alone would not wake the thread that waits in accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def delay(self, seconds: float) -> None:
        """Keep each new connection waiting for so long before it reaches the server."""
        self._set(PASS, seconds)

    def blackhole(self) -> None:
        """Accept and forward nothing: neither answers nor errors, as a lost route does."""
        self._set(BLACKHOLE, 0.0)

    def drop(self) -> None:
        """Reset every connection that exists, as a crashed host or a firewall does."""
        # Only the reading side is shut down: the other way would say goodbye before the reset.
        self._drop(socket.SHUT_RD)

    def stop(self) -> None:
        """Stop listening, reset what is open and wait for the threads."""
        self._stopped.set()
        self.refuse()
        self._set(PASS, 0.0)
        self._drop(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _drop(self, how: int) -> None:
        with self._changed:
            dropped, self._links = self._links, {}
        for pair in dropped.items():
            for sock in filter(None, pair):
                _reset(sock, how)

    def _set(self, mode: str, delay: float) -> None:
        with self._changed:
            self._mode, self._delay = mode, delay
            self._changed.notify_all()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def _spawn(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="test-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                if self._stopped.is_set():
                    client.close()
                    return
                self.accepted += 1
                self._links[client] = None
                delay = self._delay
            self._spawn(self._serve, client, delay)

    def _serve(self, client: socket.socket, delay: float) -> None:
        self._stopped.wait(delay)
        self._wait_while_blackhole()
        with contextlib.suppress(OSError):
            server = self._connect()
            self._join(client, server)
            return
        self._finish(client, client)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        with self._changed:
            dropped = client not in self._links
            if not dropped:
                self._links[client] = server
        if dropped:
            server.close()
            return
        for sock in (client, server):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._spawn(self._pump, client, server, client)
        self._pump(server, client, client)

    def _connect(self) -> socket.socket:
        params = self._server.params()
        host, port = params.get("host", "localhost"), params.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, source: socket.socket, target: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._wait_while_blackhole()
                if source is client:
                    if self.latency:
                        self._stopped.wait(self.latency)
                    data = self.rewrite(data)
                else:
                    data = self._answer(data, target)
                    while data and self.pace and not self._stopped.wait(self.pace):
                        target.sendall(data[:1])
                        data = data[1:]
                target.sendall(data)
        self._finish(client, target if source is client else source)

    def _answer(self, data: bytes, client: socket.socket) -> bytes:
        try:
            return self.answer(data)
        except Cut as cut:
            client.sendall(cut.last)
            raise

    def _finish(self, client: socket.socket, server: socket.socket) -> None:
        with self._changed:
            # Whoever took the link away closes it: a socket closed here and now could not be shut
            # down any more by the one who dropped it, and the other thread would go on reading.
            if client not in self._links:
                return
            del self._links[client]
        for sock in (client, server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _wait_while_blackhole(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._mode != BLACKHOLE)


def _reset(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.shutdown(how)
    sock.close()
