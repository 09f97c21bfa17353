"""A proxy that cuts streams, and serves the one page that asks for them.

GET /         the page
POST /report  what the page has to say in the end
/v1/...       a real server's, byte for byte; of each stream only as much as is told
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

HANG_S = 120.0
"""Only a hung browser or server is silent for so long."""

STREAMS = "/v1/streams/"


class CuttingProxy(ThreadingHTTPServer):
    """Listens on a free loopback port.

    Args:
        server_port: The real server's.
        page: An HTML document.
        cuts: After how many bytes each answer below /v1/streams is cut, in turn; those that
            follow are not.

    Attributes:
        last_event_ids: The header of each request below /v1/streams.
        statuses: The status of each answer there.
    """

    daemon_threads = True

    def __init__(self, server_port: int, page: str, cuts: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = server_port
        self.page = page.encode()
        self.cuts = list(cuts)
        self.last_event_ids: list[str | None] = []
        self.statuses: list[int] = []
        self.reports: queue.Queue[Any] = queue.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@contextmanager
def proxy_to(server_port: int, page: str, cuts: list[int]) -> Iterator[CuttingProxy]:
    """Run a proxy."""
    with CuttingProxy(server_port, page, cuts) as proxy:
        thread = Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CuttingProxy

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(200, self.server.page)
        elif self.path.startswith("/v1/"):
            self._pass_on(b"")
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/report":
            self.server.reports.put(json.loads(body))
            self._answer(200, b"")
        else:
            self._pass_on(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, body: bytes) -> None:
        self.close_connection = True
        is_stream = self.path.startswith(STREAMS)
        if is_stream:
            self.server.last_event_ids.append(self.headers["Last-Event-ID"])
        max_bytes = self.server.cuts.pop(0) if is_stream and self.server.cuts else None
        address = ("127.0.0.1", self.server.upstream_port)
        with closing(socket.create_connection(address, timeout=HANG_S)) as upstream:
            upstream.sendall(self._request(body))
            with contextlib.suppress(OSError):  # the browser has gone
                self._copy(upstream, max_bytes, is_stream)

    def _request(self, body: bytes) -> bytes:
        lines = [f"{self.command} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines = [line for line in lines if not line.lower().startswith("connection:")]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body

    def _copy(self, upstream: socket.socket, max_bytes: int | None, is_stream: bool) -> None:
        left = max_bytes
        is_first = True
        while left != 0 and (piece := upstream.recv(4096 if left is None else min(4096, left))):
            if is_first and is_stream:
                self.server.statuses.append(int(piece.split()[1]))
            is_first = False
            self.connection.sendall(piece)
            left = None if left is None else left - len(piece)
