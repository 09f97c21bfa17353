"""Streams that go straight from their rings to their clients' sockets.

    inference thread ── one wake-up ──▶ hub: HubDrain.run() = one pass in C over all streams
                                             └─▶ wakes only the greenlets that have to look

The greenlet of such a stream sleeps until its stream ends, or has something that Python has to
see to. A client that does not keep up gets a watcher of its own on its socket. Under gevent only:
everything here belongs to the hub's thread, but for what the C drain does without the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from realtime_serve._event_streams import (
    ATTENTION_AGAIN,
    ATTENTION_BLOCKED,
    EventStream,
    SocketStream,
    StreamDrain,
)
from realtime_serve.disconnect import GEVENT_WRITE
from realtime_serve.native import GeventParker, GeventWaker

FINISH_TIMEOUT_S = 30.0
"""A client that has not taken the last bytes of its stream after this long is dropped."""


class HubDrain:
    """The drain of one hub, and whom it may have to wake."""

    def __init__(self) -> None:
        self._drain = StreamDrain()
        self._sinks: dict[SocketStream, SocketSink] = {}

    @classmethod
    def of(cls, waker: GeventWaker) -> HubDrain:
        """The drain of the waker's hub, made at its first use."""
        if waker.work is None:
            waker.work = cls()
        assert isinstance(waker.work, HubDrain)
        return waker.work

    def add(self, source: SocketStream, sink: SocketSink) -> None:
        """Drain a stream from now on; the sink sees to what that does not."""
        self._drain.add(source)
        self._sinks[source] = sink

    def discard(self, source: SocketStream) -> None:
        """Leave a stream alone from now on."""
        self._drain.discard(source)
        self._sinks.pop(source, None)

    def run(self) -> list[GeventParker]:
        """Pass over all streams; returns the parkers of those that have to look."""
        sinks = [self._sinks[source] for source in self._drain.run()]
        return [sink.parker for sink in sinks if sink.attend()]


class SocketSink:
    """Where the answer of one stream goes, chunk by chunk, while its greenlet sleeps.

    If there are events to drain, it is the EventSource that its stream reads.

    As a context manager it is closed at the end: with bytes unsent, the connection is shut down.

    Args:
        parker: Where the stream's greenlet waits.
        events: What to drain; None if all events are written.
        fd: The client's socket, of which it makes a duplicate.
        on_gone: Called when the client has gone, perhaps more than once.

    Attributes:
        source: What sends, and counts what it has sent.

    Raises:
        OSError: The descriptor cannot be duplicated.
    """

    def __init__(
        self,
        parker: GeventParker,
        events: EventStream | None,
        fd: int,
        on_gone: Callable[[], None],
    ) -> None:
        self.parker = parker
        self.source = SocketStream(events, fd)
        self._on_gone = on_gone
        self._drain = HubDrain.of(parker.waker)
        self._watcher: Any = None
        if events is not None:
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

    def finish(self, data: bytes) -> None:
        """Send the last chunk and wait until the client has taken everything, or is dropped."""
        self._leave_drain()
        self.source.write(data)
        self._watch_if_blocked()
        give_up_at_s = time.monotonic() + FINISH_TIMEOUT_S
        while self.source.is_blocked and time.monotonic() < give_up_at_s:
            self.parker.park(give_up_at_s - time.monotonic())

    def close(self) -> None:
        """Let go of the socket. May be called again."""
        self._leave_drain()
        self._stop_watching()
        self.source.close()

    def attend(self) -> bool:
        """See to what needs no greenlet; returns whether something else does."""
        if self.source.is_dead:
            self._on_gone()
        self._watch_if_blocked()
        attention = self.source.attention
        if attention & ATTENTION_AGAIN:
            self.parker.waker.flush()  # after what else the hub has to do
        return attention & ~(ATTENTION_BLOCKED | ATTENTION_AGAIN) != 0

    def _watch_if_blocked(self) -> None:
        if self.source.is_blocked and self._watcher is None:
            self._watcher = self.parker.waker.loop.io(self.source.fileno(), GEVENT_WRITE)
            self._watcher.start(self._go_on)

    def _go_on(self) -> None:
        self.source.resume()
        if not self.source.is_blocked:
            self._stop_watching()
            self.parker.unpark()

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _leave_drain(self) -> None:
        self._drain.discard(self.source)
        self.parker.is_left_to_work = False
