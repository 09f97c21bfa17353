"""Watches the sends of WSGI servers, which block when a client does not read.

    the handler   yield a piece ──▶ the server's send() ... blocked ... the client reads again
    the watch     looks now and then: has the client taken anything?
                  yes: the stream's lease is renewed     no, for too long: the connection is shut

Then the send fails, the server closes the stream, and the handler is free. Who blocks is a
thread, or a greenlet; whichever it is, and whatever the process has patched, one native thread
looks at all of them, and only while there are streams.
"""

from __future__ import annotations

import _socket
import contextlib
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Self

from realtime_serve.disconnect import duplicate_socket
from realtime_serve.errors import StalledReaderError
from realtime_serve.native import Lock, original, spawn_thread
from realtime_serve.stall_clock import Pace, StallClock, num_taken_bytes
from realtime_serve.stream_interface import SentStream

MAX_UNSENT_BYTES = 16 * 1024
"""What the kernel takes beyond what is on its way; without a bound it would be megabytes, and a
client that does not read would be noticed that late."""

_sleep = original("time", "sleep")


class SendWatch:
    """Gives up on clients that take nothing of what a server is sending. Any thread.

    Args:
        stall_timeout_s: After how long; None never does.

    Attributes:
        is_looking: Whether its thread runs.
    """

    def __init__(self, stall_timeout_s: float | None) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._lock = Lock()
        self._watched: set[WatchedSends] = set()
        self.is_looking = False

    def open(self, sock: socket.socket | None, stream: SentStream) -> WatchedSends:
        """Watch what is sent of a stream, from entering the result until leaving it.

        Args:
            sock: The client's socket; None if the server does not show it: then nothing is done.
            stream: What is sent.
        """
        return WatchedSends(self, sock, stream, self._stall_timeout_s)

    def add(self, sends: WatchedSends) -> None:
        """Look at some sends from now on."""
        with self._lock:
            if not self.is_looking:
                spawn_thread(self._look_on)
                self.is_looking = True
            self._watched.add(sends)

    def discard(self, sends: WatchedSends) -> None:
        """Leave them alone from now on: when this returns, nobody touches their socket."""
        with self._lock:
            self._watched.discard(sends)

    def _look_on(self) -> None:
        """Look until nothing is left; runs in the native thread."""
        assert self._stall_timeout_s is not None
        while self._has_some():
            _sleep(StallClock(self._stall_timeout_s).interval_s)
            for sends in list(self._watched):
                with self._lock:
                    if sends in self._watched:
                        sends.look(time.monotonic())

    def _has_some(self) -> bool:
        with self._lock:
            self.is_looking = bool(self._watched)
            return self.is_looking


class WatchedSends:
    """The sends of one stream; see SendWatch.open."""

    def __init__(
        self,
        watch: SendWatch,
        sock: socket.socket | None,
        stream: SentStream,
        stall_timeout_s: float | None,
    ) -> None:
        self._watch = watch
        self._sock = sock
        self._stream = stream
        self._clock = None if stall_timeout_s is None else StallClock(stall_timeout_s)
        self._num_sends = 0
        self._num_seen_sends = 0
        self._is_sending = False

    def __enter__(self) -> Self:
        """Bound what the kernel takes, and be watched."""
        if self._sock is not None:
            _bound_unsent(self._sock, MAX_UNSENT_BYTES)
            if self._clock is not None:
                self._watch.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo both: the connection may have more to send."""
        if self._sock is not None:
            self._watch.discard(self)
            _bound_unsent(self._sock, 0)  # the system's default

    def through(self, pieces: Generator[bytes, None, None]) -> Iterator[bytes]:
        """Yield all pieces, each of which is being sent until the next one is asked for."""
        with closing(pieces):
            for piece in pieces:
                self._num_sends += 1
                self._is_sending = True
                yield piece
                self._is_sending = False

    def look(self, now_s: float) -> None:
        """See what became of a send that is under way; in the watch's thread."""
        if self._is_sending and self._sock is not None and self._clock is not None:
            with contextlib.suppress(OSError):  # it is closed, or there is no descriptor left
                self._judge(self._sock, self._clock, now_s)

    def _judge(self, sock: socket.socket, clock: StallClock, now_s: float) -> None:
        num_taken = num_taken_bytes(sock.fileno())
        if self._num_seen_sends != self._num_sends:
            self._num_seen_sends = self._num_sends
            clock.start(num_taken, now_s)
            return
        match clock.read(num_taken, now_s):
            case Pace.TAKING:
                self._stream.renew_lease()
            case Pace.STALLED:
                self._stream.cancel(StalledReaderError())
                _shut(sock)


def _bound_unsent(sock: socket.socket, num_bytes: int) -> None:
    with contextlib.suppress(OSError):  # closed, or a Unix socket, whose queue is short anyway
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, num_bytes)


def _shut(sock: socket.socket) -> None:
    """Shut a connection; its own type might wait for its hub, or for encryption."""
    with closing(duplicate_socket(sock.fileno())) as duplicate:
        duplicate.shutdown(_socket.SHUT_RDWR)
