"""When the body of an answer may go to its socket around the WSGI server.

Nothing may stand between: no middleware that wants to see the body, no encryption, no coding,
and a server that frames bodies as we do. So it is done in an app of our own only, called by
gunicorn's gevent worker or by `run`'s server itself, for a chunked answer over HTTP/1.1. Whoever
wraps the app, its `start_response` or the answer's body is noticed, and everything goes through
the server then.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from flask import Flask, Response

from realtime_serve.disconnect import is_hub_socket
from realtime_serve.worker_processes import is_called_by_gunicorn

DIRECT_STREAMS = "REALTIME_SERVE_DIRECT_STREAMS"
"""Key in an app's configuration: whether bodies may be written around the server."""

_GUNICORN_RESPONSE = ("gunicorn.http.wsgi", "Response")
"""Not HTTP/2's, which is a class of its own."""


@runtime_checkable
class ChunkingServer(Protocol):
    """The server's side of an answer, where the server is our own."""

    def socket_for_chunks(self, app: Flask) -> socket.socket | None:
        """The client's socket, if the server calls `app` itself and the body goes in chunks."""


def direct_socket(
    app: Flask, response: Response, start_response: Callable[..., Any]
) -> socket.socket | None:
    """Find the socket for the chunks of an answer.

    Args:
        app: Who answers.
        response: The answer.
        start_response: What the app was called with; it must have been called.

    Returns:
        The client's socket, or None if the body has to go through the server.
    """
    if not app.config.get(DIRECT_STREAMS) or "Content-Encoding" in response.headers:
        return None
    if "wsgi_app" in vars(app):
        return None
    server_side: Any = getattr(start_response, "__self__", None)
    if isinstance(server_side, ChunkingServer):
        sock = server_side.socket_for_chunks(app)
    else:
        sock = _gunicorn_socket(app, server_side)
    return sock if is_hub_socket(sock) else None


def _gunicorn_socket(app: Flask, server_side: Any) -> socket.socket | None:
    kind = type(server_side)
    if (kind.__module__, kind.__qualname__) != _GUNICORN_RESPONSE or not server_side.chunked:
        return None
    sock: socket.socket = server_side.sock
    return sock if is_called_by_gunicorn(app) else None
