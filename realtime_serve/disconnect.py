"""Client sockets as a hub or a probe sees them: whether the peer is still there."""

from __future__ import annotations

import _socket
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from realtime_serve.native import current_hub, original
from realtime_serve.types import HalfClose

GEVENT_READ = 1
GEVENT_WRITE = 2
"""libev's EV_READ and EV_WRITE, as loop.io() takes them."""

PROBE_INTERVAL_S = 0.25
"""Where nothing can watch a socket, it is looked at this often; a look costs about a
microsecond."""


def is_hub_socket(sock: object) -> bool:
    """Whether this is gevent's plain socket: not encrypted, and for a hub to watch."""
    module = sys.modules.get("gevent.socket")
    return module is not None and type(sock) is module.socket


def duplicate_socket(descriptor: int) -> _socket.socket:
    """A duplicate of a socket, to be closed by the caller.

    It is of C's own type: the one that gevent puts in its place waits for its hub, and interrupts
    whoever else waits for the connection.

    Raises:
        OSError: The descriptor is closed, or no socket's, or there is none left.
    """
    duplicate = os.dup(descriptor)
    try:
        return _socket.socket(fileno=duplicate)
    except BaseException:
        os.close(duplicate)
        raise


class DisconnectWatch:
    """Notices that the peer of a socket has gone, without reading a byte of it.

    Under gevent the hub watches the socket and calls back within a millisecond, or within
    PROBE_INTERVAL_S once the peer has sent more than was read. Without a hub, `gone()`
    probes it. Linux only, for POLLRDHUP: the one sign of an end behind unread bytes.

    Args:
        sock: The client's socket, or None when the server does not show it.
        on_gone: Called once, in the hub, when the peer has gone.
        half_close: Whether a peer that has shut down its sending side has gone ("cancel"), or
            only one whose connection has failed ("finish"). A peer that has closed everything
            looks like the former until something is sent to it.
    """

    def __init__(
        self,
        sock: socket.socket | None,
        on_gone: Callable[[], None],
        half_close: HalfClose = "cancel",
    ) -> None:
        self._sock = sock
        self._on_gone = on_gone
        # Failures come unasked.
        self._signs = select.POLLRDHUP if half_close == "cancel" else 0
        self._loop: Any = None
        self._watcher: Any = None
        hub = current_hub()
        if sock is not None and hub is not None and sock.fileno() >= 0:
            self._loop = hub.loop
            self._start(self._loop.io(sock.fileno(), GEVENT_READ))

    @property
    def watched(self) -> bool:
        """Whether a hub watches; if not, somebody has to ask `gone()`."""
        return self._loop is not None

    def gone(self) -> bool:
        """Whether the peer has gone; costs one system call."""
        if self._sock is None or self._sock.fileno() < 0:
            return False
        poll = original("select", "poll")()
        poll.register(self._sock.fileno(), self._signs)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop watching; may be called again."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _start(self, watcher: Any) -> None:
        self._watcher = watcher
        watcher.start(self._look)

    def _look(self) -> None:
        self.close()
        if self.gone():
            self._on_gone()
        else:
            # Unread bytes, or their end, keep the socket readable: its watcher would fire for ever.
            self._start(self._loop.timer(PROBE_INTERVAL_S))
