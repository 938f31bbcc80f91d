"""TLS before a server that has none: the wheel's PostgreSQL is built without it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

from tests.cluster import Server
from tests.pool.real.fake_server import SSL_REQUEST


def make_certificate(folder: Path) -> Path:
    """Return a file with a key and a certificate for it, signed by itself."""
    path = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    names = ["-keyout", str(path), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command, *names], check=True, capture_output=True, timeout=60)
    with path.open("a") as both:
        both.write((folder / "certificate.pem").read_text())
    return path


class TLSFront:
    """Takes connections with TLS and passes them on without. Use it as a context manager."""

    def __init__(self, server: Server, certificate: Path) -> None:
        params = server.params()
        self._server = (params["host"], int(params["port"]))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def __enter__(self) -> TLSFront:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def serving(self) -> int:
        """How many connections it passes on at the moment."""
        return sum(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(self._server) as server,
        ):
            asked = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
            assert asked == (8, SSL_REQUEST)
            client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as secure:
                self._pass_on(secure, server)

    def _pass_on(self, secure: ssl.SSLSocket, server: socket.socket) -> None:
        while not self._stopped.is_set():
            readable = select.select([secure, server], [], [], 0.1)[0]
            for source in [secure] if secure.pending() else readable:
                data = source.recv(65536)
                if not data:
                    return
                (server if source is secure else secure).sendall(data)
