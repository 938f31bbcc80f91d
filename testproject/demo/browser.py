"""The story in a browser: a page of the demo's own, which renews itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
)
# What another site calls this address by is none of these.
HOSTS = ("127.0.0.1", "localhost")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>django-connpool: the demo</title>
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light">
<style>
body { margin: 2rem; font: 15px/1.5 system-ui, sans-serif }
pre { font: 14px/1.25 ui-monospace, monospace; white-space: pre-wrap }
</style>
<h1>The same shop with three kinds of connections</h1>
<p id="where">%s</p>
<pre id="story">%s</pre>
<script>
async function renew() {
  try {
    const answer = await fetch("story");
    document.getElementById("story").innerHTML = await answer.text();
    setTimeout(renew, 500);
  } catch {
    document.getElementById("where").textContent = "The demo has ended.";
  }
}
renew();
</script>
</html>
"""


@contextmanager
def showing(story: Callable[[], str], where: str) -> Iterator[int]:
    """Serve the page on the loopback address while the block runs; the port. Both are HTML."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").partition(":")[0]
            if host not in HOSTS or self.path not in ("/", "/story"):
                self.send_error(404)
                return
            text = story() if self.path == "/story" else PAGE % (where, story())
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: the terminal is for the story."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Browsers keep connections; the demo does not wait for them to go.
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, name="browser", daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
