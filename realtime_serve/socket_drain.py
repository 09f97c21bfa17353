"""Streams that go straight from their rings to their clients' sockets.

The hub's drain sends what they have. A client that does not keep up gets a watcher of its own on
its socket.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from realtime_serve._event_streams import EventStream, SocketStream
from realtime_serve.disconnect import GEVENT_WRITE
from realtime_serve.errors import EngineError, StalledReaderError
from realtime_serve.hub_drain import DrainSink
from realtime_serve.native import GeventParker
from realtime_serve.stall_clock import Pace, StallClock, num_taken_bytes
from realtime_serve.stream_interface import SentStream


class SocketSink(DrainSink):
    """Where the answer of one stream goes, chunk by chunk, while its greenlet sleeps.

    If there are events to drain, it is the EventSource that its stream reads.

    As a context manager it is closed at the end: with bytes unsent, the connection is shut down.

    Args:
        parker: Where the stream's greenlet waits.
        events: What to drain; None if all events are written.
        fd: The client's socket, of which it makes a duplicate. Whoever has it keeps it open.
        stream: What is told that its client has gone, or is slow, or is given up.
        stall_timeout_s: A client that takes nothing for this long is given up; None never.
        max_flush_delay_s: Bounds what a busy hub's tokens wait for those of the next step; what
            the stream that was opened last says holds for all streams of the hub.

    Attributes:
        source: What sends, and counts what it has sent.
        is_stalled: Whether the client was given up.

    Raises:
        OSError: The descriptor cannot be duplicated.
    """

    def __init__(
        self,
        parker: GeventParker,
        events: EventStream | None,
        fd: int,
        stream: SentStream,
        stall_timeout_s: float | None,
        *,
        max_flush_delay_s: float = 0.0,
    ) -> None:
        self.source = SocketStream(events, fd)
        super().__init__(parker, self.source)
        self.is_stalled = False
        self._is_known_dead = False
        self._stream = stream
        self._clock = None if stall_timeout_s is None else StallClock(stall_timeout_s)
        self._watched_fd = fd
        self._watchers: list[Any] = []
        if events is not None:
            self._drain.pace.max_delay_s = max_flush_delay_s
            self._join_drain()

    def __enter__(self) -> Self:
        """Use the sink as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an error, whatever the server would say next is no part of the answer."""
        if kind is not None:
            self.source.abort()
        self.close()

    def is_clear(self) -> bool:
        """Whether the client keeps up, or has gone; becoming so wakes the greenlet."""
        return not self.source.is_blocked

    def write(self, data: bytes) -> None:
        """Send a chunk behind what is unsent, without waiting; `is_clear` tells when to go on."""
        self.source.write(data)
        self.attend()

    def finish(self, data: bytes, *, may_wait: bool = True) -> None:
        """Send the last chunk and wait until the client has taken everything, or is given up.

        A client that is given up has the rest of its answer in the kernel, if that takes it, for
        as long as the kernel keeps it; the connection ends there.

        Args:
            data: The chunk.
            may_wait: False gives up at once a client that does not keep up.
        """
        self._leave_drain()
        self.source.write(data)
        self._watch_if_blocked()
        while self.source.is_blocked and may_wait and not self.is_stalled:
            self.parker.park()
        if self.source.is_blocked:
            self.source.conclude()

    def close(self) -> None:
        """Let go of the socket. May be called again."""
        self._leave_drain()
        self._stop_watching()
        self.source.close()

    def attend(self) -> bool:
        """See DrainSink. A failure ends this answer only, and is logged where its stream ends."""
        try:
            return self._see_to_it()
        except Exception as cause:
            self.source.abort()
            error = EngineError("The answer could not be sent on.")
            error.__cause__ = cause
            self._stream.cancel(error)
            return True

    def _see_to_it(self) -> bool:
        if self.source.is_dead and not self._is_known_dead:
            self._is_known_dead = True
            self._stream.cancel()
        self._watch_if_blocked()
        return super().attend()

    def _watch_if_blocked(self) -> None:
        if not self.source.is_blocked or self._watchers or self.is_stalled:
            return
        loop = self.parker.waker.loop
        # Not the duplicate: closing one of two descriptors of a socket leaves it in the hub's epoll
        # set, and libev then makes that anew, with all connections of the process.
        writable = loop.io(self._watched_fd, GEVENT_WRITE)
        self._watchers.append(writable)
        writable.start(self._go_on)
        if self._clock is not None:
            self._clock.start(self._num_taken_bytes(), time.monotonic())
            interval_s = self._clock.interval_s
            timer = loop.timer(interval_s, repeat=interval_s)
            self._watchers.append(timer)
            timer.start(self._look, self._clock)

    def _go_on(self) -> None:
        self.source.resume()
        if not self.source.is_blocked:
            self._stop_watching()
            self.parker.unpark()

    def _look(self, clock: StallClock) -> None:
        match clock.read(self._num_taken_bytes(), time.monotonic()):
            case Pace.TAKING:
                self._stream.renew_lease()
            case Pace.STALLED:
                self.is_stalled = True
                self._stop_watching()
                self._stream.cancel(StalledReaderError())
                self.parker.unpark()

    def _num_taken_bytes(self) -> int:
        """A figure that changes with what the client takes, and with what that makes room for."""
        return num_taken_bytes(self.source.fileno()) + self.source.num_sent_bytes

    def _stop_watching(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.stop()
            watcher.close()
