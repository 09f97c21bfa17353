"""Serves an app with gevent's WSGI server in a process that is not patched."""

from __future__ import annotations

import logging
import signal
import socket
from functools import partial
from typing import Any

from flask import Flask
from gevent import signal_handler
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from realtime_serve.api.client import PYWSGI_SOCKET
from realtime_serve.api.connections import ClientConnections
from realtime_serve.api.shutdown import CUT_AFTER_S, Shutdown
from realtime_serve.native import pause
from realtime_serve.server import InferenceServer

logger = logging.getLogger("realtime_serve")

QUIT_TIMEOUT_S = 1.0
"""How long the handlers of cut connections may take to return."""


class _Handler(WSGIHandler):  # type: ignore[misc]
    """Shows the client's socket to the app, and closes connections at the end, as gunicorn does."""

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[PYWSGI_SOCKET] = self.socket
        return environ

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Any:
        if self.server.closed:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def socket_for_chunks(self, app: Flask) -> socket.socket | None:
        """See direct.ChunkingServer; to be asked before the first piece of the body."""
        in_chunks = self.request_version == "HTTP/1.1" and self.provided_content_length is None
        sock: socket.socket = self.socket
        return sock if in_chunks and self.application is app else None

    def log_request(self) -> None:
        """Nothing: the RequestLogger writes the line when the stream has ended."""


def serve_forever(app: Flask, server: InferenceServer, host: str, port: int) -> None:
    """Serve until SIGTERM, and then until what runs is done or the drain is over, or until SIGINT.

    Args:
        app: What to serve.
        server: What is drained.
        host: Address to bind.
        port: Port to bind.

    Raises:
        OSError: The address cannot be bound.
    """
    handling = Pool()  # tells when all connections are closed
    http = WSGIServer((host, port), app, handler_class=_Handler, spawn=handling)
    connections = ClientConnections(app)
    http.start()
    connections.know_listeners([http.address])
    shutdown = Shutdown(server, connections, http.close)
    handlers = {
        signal.SIGTERM: shutdown.begin,
        signal.SIGINT: partial(_quit, http, server, connections),
    }
    replaced = {number: signal.getsignal(number) for number in handlers}
    watchers = [signal_handler(number, handler) for number, handler in handlers.items()]
    logger.info("Serving on http://%s:%d", host, http.server_port)
    try:
        http.serve_forever(stop_timeout=shutdown.timeout_s + CUT_AFTER_S + QUIT_TIMEOUT_S)
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, handler in replaced.items():  # cancelling leaves the system's default
            signal.signal(number, handler)


def _quit(http: WSGIServer, server: InferenceServer, connections: ClientConnections) -> None:
    """End all streams with a reason, and then all connections."""
    server.drain(timeout_s=0.0)
    http.close()
    pause(CUT_AFTER_S)
    connections.shut_all()
