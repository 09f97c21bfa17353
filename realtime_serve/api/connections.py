"""The client connections of this process, and which of them carry a request.

A server that is told to stop waits for all its connections, but neither gunicorn nor gevent
tells which there are: one that a client keeps for later, or has opened in advance and not used
yet, looks like one that is being answered. So the kernel is asked which there are, and the app
says which of them it is answering. To shut the reading side of one that is idle makes the
server close it, as if its client had.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import stat
import weakref
from collections.abc import Iterable, Iterator, Set
from typing import Any

from flask import Flask, Response, request

from realtime_serve.api.client import client_socket
from realtime_serve.disconnect import duplicate_socket

DESCRIPTORS = "/proc/self/fd"


class ClientConnections:
    """The connections that clients have to this process.

    Args:
        app: Whose requests keep a connection busy; not serving yet.
    """

    def __init__(self, app: Flask) -> None:
        self._endpoints: set[Any] = set()
        self._busy: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._idle_before: set[int] = set()
        app.before_request(self._note_busy)
        app.after_request(self._note_idle_when_closed)
        app.teardown_request(self._note_idle_if_failed)

    def know_listeners(self, addresses: Iterable[Any]) -> None:
        """Take those for our connections that were accepted there.

        Args:
            addresses: Where the process listens, as getsockname() gives it.
        """
        self._endpoints = {_endpoint(address) for address in addresses}

    def shut_idle(self) -> None:
        """Shut the reading side of the connections that were idle at the last call, too.

        One that is new may have its request on the way to us.
        """
        busy = {_inode(sock.fileno()) for sock in self._busy if sock.fileno() >= 0}
        idle = set()
        for sock in self._open_sockets(busy):
            inode = _inode(sock.fileno())
            if inode in self._idle_before:
                shut(sock, _socket.SHUT_RD)
            idle.add(inode)
        self._idle_before = idle

    def shut_all(self) -> None:
        """Cut all connections, whatever is under way on them: for their clients that is the end."""
        for sock in self._open_sockets():
            shut(sock, _socket.SHUT_RDWR)

    def _open_sockets(self, skipped: Set[int] = frozenset()) -> Iterator[_socket.socket]:
        """Duplicates of our connections' sockets, each closed again before the next.

        Without those whose inodes are skipped: there may be thousands, and the hub waits.
        """
        for name in os.listdir(DESCRIPTORS):
            with contextlib.suppress(OSError):  # closed meanwhile, or without an address
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode) and status.st_ino not in skipped:
                    yield from self._if_ours(duplicate_socket(int(name)))

    def _if_ours(self, sock: _socket.socket) -> Iterator[_socket.socket]:
        try:
            sock.getpeername()  # fails for those that only listen
            if _endpoint(sock.getsockname()) in self._endpoints:
                yield sock
        finally:
            sock.close()

    def _note_busy(self) -> None:
        sock = client_socket(request.environ)
        if sock is not None:
            self._busy.add(sock)

    def _note_idle_when_closed(self, response: Response) -> Response:
        sock = client_socket(request.environ)
        if sock is not None:
            response.call_on_close(lambda: self._busy.discard(sock))
        return response

    def _note_idle_if_failed(self, error: BaseException | None) -> None:
        """A hook that failed has kept us from the response; what is sent instead is short."""
        sock = client_socket(request.environ)
        if error is not None and sock is not None:
            self._busy.discard(sock)


def _endpoint(address: Any) -> Any:
    """What a listener and its connections share: the port, or the path of a Unix socket."""
    return address[1] if isinstance(address, tuple) else address


def _inode(descriptor: int) -> int:
    """What duplicates of one socket share."""
    return os.fstat(descriptor).st_ino


def shut(sock: _socket.socket, how: int) -> None:
    """Shut one side of a connection, or both; nothing if it is closed already."""
    with contextlib.suppress(OSError):  # the client has closed it already
        sock.shutdown(how)
