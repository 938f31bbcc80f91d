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


def openssl(folder: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)


class Authority:
    """An authority that signs certificates, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.root = folder / "root.pem"
        names = ("-keyout", "root.key", "-out", "root.pem", "-subj", f"/CN={folder.name}")
        openssl(folder, "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", *names)

    def sign(self, name: str, *more: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a name and of its key; `more` is for openssl."""
        key, asked, path = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        names = ("-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}")
        openssl(self.folder, "req", "-nodes", "-newkey", "rsa:2048", *names)
        signer = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial")
        days = more or ("-days", "2")
        openssl(self.folder, "x509", "-req", "-in", str(asked), *signer, "-out", str(path), *days)
        key.chmod(0o600)
        return path, key


class TLSFront:
    """Takes connections with TLS and passes them on without. Use it as a context manager.

    With `authority`, the file of its certificate, only from those that have one of its.
    """

    def __init__(
        self,
        server: Server,
        certificate: Path,
        key: Path | None = None,
        authority: Path | None = None,
    ) -> None:
        params = server.params()
        self._server = (params["host"], int(params["port"]))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if authority is not None:
            self._context.load_verify_locations(authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
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
