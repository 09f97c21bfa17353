"""Tells a slow client from one that takes nothing at all."""

from __future__ import annotations

import _socket
import enum
import errno
import fcntl
import struct
import termios

LOOKS_A_TIMEOUT = 8
"""A stalled client is noticed this part of its timeout late, at most."""

_BYTES_ACKED = struct.Struct("@Q")
_BYTES_ACKED_OFFSET = 120
"""Of tcpi_bytes_acked in Linux's struct tcp_info, whose fields never move."""


class Pace(enum.Enum):
    """How a client takes what is sent to it."""

    TAKING = "taking"
    PAUSING = "pausing"
    STALLED = "stalled"


class StallClock:
    """How long a client has taken nothing, while there was something to take.

    Time is passed in. To be started when a send blocks, and read until it goes on.

    Args:
        timeout_s: A client that takes nothing for this long has stalled.
    """

    def __init__(self, timeout_s: float) -> None:
        self.interval_s = timeout_s / LOOKS_A_TIMEOUT
        self._timeout_s = timeout_s
        self._num_taken = 0
        self._taken_at_s = 0.0

    def start(self, num_taken_bytes: int, now_s: float) -> None:
        """Begin to wait for a client that has taken so much by now."""
        self._num_taken = num_taken_bytes
        self._taken_at_s = now_s

    def read(self, num_taken_bytes: int, now_s: float) -> Pace:
        """How the client has kept up since; to be asked every `interval_s`."""
        if num_taken_bytes != self._num_taken:
            self.start(num_taken_bytes, now_s)
            return Pace.TAKING
        return Pace.STALLED if now_s - self._taken_at_s >= self._timeout_s else Pace.PAUSING


def num_taken_bytes(descriptor: int) -> int:
    """A figure that changes whenever the client's kernel has taken bytes from us.

    It takes them until the client's receive buffer is full: what the client itself reads is seen
    in portions of that buffer only. Of a Unix socket there is only how much it holds, which may
    be the same again when as much has been sent as was taken.

    Args:
        descriptor: Of the connection's socket.

    Raises:
        OSError: It is closed.
    """
    if descriptor < 0:
        raise OSError(errno.EBADF, "The socket is closed.")
    sock = _socket.socket(fileno=descriptor)
    try:
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 256)
        return int(_BYTES_ACKED.unpack_from(info, _BYTES_ACKED_OFFSET)[0])
    except (OSError, struct.error):  # a Unix socket, or a kernel without the figure
        return -_num_queued_bytes(descriptor)
    finally:
        sock.detach()


def _num_queued_bytes(descriptor: int) -> int:
    queued = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(queued, "little")
