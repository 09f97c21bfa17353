"""Streams that go straight from their rings to their clients' sockets.

    inference thread ── one wake-up ──▶ hub: HubDrain.run() = one pass in C over all streams
                                             └─▶ wakes only the greenlets that have to look

The greenlet of such a stream sleeps until its stream ends, or has something that Python has to
see to. A client that does not keep up gets a watcher of its own on its socket. Under gevent only:
everything here belongs to the hub's thread, but for what the C drain does without the GIL.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol, Self

from realtime_serve._event_streams import (
    ATTENTION_AGAIN,
    ATTENTION_BLOCKED,
    DrainedStream,
    EventStream,
    SocketStream,
    StreamDrain,
)
from realtime_serve.disconnect import GEVENT_WRITE
from realtime_serve.errors import EngineError, StalledReaderError
from realtime_serve.flush_pace import FlushPace
from realtime_serve.native import GeventParker, GeventWaker
from realtime_serve.stall_clock import Pace, StallClock, num_taken_bytes
from realtime_serve.stream_interface import SentStream


class Sink(Protocol):
    """Where the tokens of one stream go.

    Attributes:
        parker: Where the stream's greenlet waits.
    """

    parker: GeventParker

    def attend(self) -> bool:
        """See to what needs no greenlet; returns whether something else does. Raises nothing."""


class HubDrain:
    """The drain of one hub, and whom it may have to wake.

    Args:
        waker: The hub's.

    Attributes:
        pace: When it may pass over the streams again.
    """

    def __init__(self, waker: GeventWaker) -> None:
        self.pace = FlushPace()
        self._drain = StreamDrain()
        self._sinks: dict[DrainedStream, Sink] = {}
        self._waker = waker
        self._timer: Any = None

    @classmethod
    def of(cls, waker: GeventWaker) -> HubDrain:
        """The drain of the waker's hub, made at its first use."""
        if waker.work is None:
            waker.work = cls(waker)
        assert isinstance(waker.work, HubDrain)
        return waker.work

    def add(self, source: DrainedStream, sink: Sink) -> None:
        """Drain a stream from now on; the sink sees to what that does not."""
        self._drain.add(source)
        self._sinks[source] = sink

    def discard(self, source: DrainedStream) -> None:
        """Leave a stream alone from now on."""
        self._drain.discard(source)
        self._sinks.pop(source, None)

    def run(self) -> list[GeventParker]:
        """Pass over all streams, or later; returns the parkers of those that have to look."""
        now_s = time.monotonic()
        wait_s = self.pace.wait_s(now_s)
        if wait_s > 0:
            self._run_after(wait_s)
            return []
        attended = self._drain.run()
        left_some = any(source.attention & ATTENTION_AGAIN for source in attended)
        self.pace.note_pass(now_s, time.monotonic(), left_some=left_some)
        sinks = [self._sinks[source] for source in attended]
        return [sink.parker for sink in sinks if sink.attend()]

    def _run_after(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = self._waker.loop.timer(wait_s)
            self._timer.start(self._run_now)

    def _run_now(self) -> None:
        self._timer.close()
        self._timer = None
        self._waker.flush()


class SocketSink:
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
        self.parker = parker
        self.source = SocketStream(events, fd)
        self.is_stalled = False
        self._is_known_dead = False
        self._stream = stream
        self._clock = None if stall_timeout_s is None else StallClock(stall_timeout_s)
        self._drain = HubDrain.of(parker.waker)
        self._watched_fd = fd
        self._watchers: list[Any] = []
        if events is not None:
            self._drain.pace.max_delay_s = max_flush_delay_s
            self._drain.add(self.source, self)
            parker.is_left_to_work = True

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

    def take(self) -> bytes:
        """Send what is ready, at most one pass's part; returns nothing, all is seen to."""
        nothing = self.source.take()
        self.attend()
        return nothing

    @property
    def end_state(self) -> int:
        """The ring's terminal state once the last token was taken; OPEN before."""
        return self.source.end_state

    def take_starved(self) -> bool:
        """Whether the engine has to be kicked; True once."""
        return self.source.take_starved()

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
        """See Sink. A failure ends this answer only, and is logged where its stream ends."""
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
        attention = self.source.attention
        if attention & ATTENTION_AGAIN:
            self.parker.waker.flush()  # after what else the hub has to do
        return attention & ~(ATTENTION_BLOCKED | ATTENTION_AGAIN) != 0

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

    def _leave_drain(self) -> None:
        self._drain.discard(self.source)
        self.parker.is_left_to_work = False
