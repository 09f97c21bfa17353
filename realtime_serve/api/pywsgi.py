"""Serves an app with gevent's WSGI server in a process that is not patched."""

from __future__ import annotations

import logging
import signal
from typing import Any

from flask import Flask
from gevent import signal_handler
from gevent.pywsgi import WSGIHandler, WSGIServer

from realtime_serve.api.client import PYWSGI_SOCKET

logger = logging.getLogger("realtime_serve")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOP_TIMEOUT_S = 1.0
"""How long open connections may go on after a signal."""


class _Handler(WSGIHandler):  # type: ignore[misc]
    """Shows the client's socket to the app, as gunicorn does."""

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[PYWSGI_SOCKET] = self.socket
        return environ

    def log_request(self) -> None:
        """Nothing: the RequestLogger writes the line when the stream has ended."""


def serve_forever(app: Flask, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: What to serve.
        host: Address to bind.
        port: Port to bind.

    Raises:
        OSError: The address cannot be bound.
    """
    http = WSGIServer((host, port), app, handler_class=_Handler)
    http.start()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    watchers = [signal_handler(number, http.stop, STOP_TIMEOUT_S) for number in STOP_SIGNALS]
    logger.info("Serving on http://%s:%d", host, http.server_port)
    try:
        http.serve_forever()
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, handler in handlers.items():  # cancelling leaves the system's default
            signal.signal(number, handler)
