"""Lets a gunicorn worker stop at once although clients keep idle connections to it.

On SIGTERM a gevent worker waits for every open connection, and a pooled one stays
open until the keep-alive time has passed. So the connections between two requests
are remembered, and their reading side is shut down when the signal comes: to
gunicorn that looks as if the client had closed them.
"""

from __future__ import annotations

import _socket
import os
import signal
import socket
import weakref
from types import FrameType

from flask import Flask, Response, request

from realtime_serve.api.client import client_socket


class IdleConnections:
    """The client connections of this process that wait for their next request.

    Args:
        app: Whose connections; must be served by a gunicorn worker.
    """

    def __init__(self, app: Flask) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._closing = False
        app.before_request(self._busy)
        app.after_request(self._idle_when_closed)

    def close_at_sigterm(self) -> None:
        """Shut the idle connections at SIGTERM, before the worker's own handler runs."""
        worker_handler = signal.getsignal(signal.SIGTERM)

        def close_and_go_on(number: int, frame: FrameType | None) -> None:
            try:
                self.close()
            finally:
                if callable(worker_handler):
                    worker_handler(number, frame)

        signal.signal(signal.SIGTERM, close_and_go_on)

    def close(self) -> None:
        """Shut the reading side of every idle connection, and of each that becomes idle."""
        self._closing = True
        for sock in list(self._sockets):
            _shut_reading(sock)

    def _busy(self) -> None:
        sock = client_socket(request.environ)
        if sock is not None:
            self._sockets.discard(sock)

    def _idle_when_closed(self, response: Response) -> Response:
        sock = client_socket(request.environ)
        if sock is not None:
            response.call_on_close(lambda: self._idle(sock))
        return response

    def _idle(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        if self._closing:
            _shut_reading(sock)


def _shut_reading(sock: socket.socket) -> None:
    """Through a duplicate of C's own type: the patched one would interrupt the reader."""
    if sock.fileno() < 0:
        return
    duplicate = _socket.socket(fileno=os.dup(sock.fileno()))
    try:
        duplicate.shutdown(_socket.SHUT_RD)
    except OSError:  # the client has closed it already
        return
    finally:
        duplicate.close()
