"""HubDrain: the streams of one hub whose tokens need no Python.

    inference thread ── one wake-up ──▶ hub: HubDrain.run() = one pass in C over all streams
                                             └─▶ wakes only the greenlets that have to look

The greenlet of such a stream sleeps until its stream ends, or has something that Python has to
see to. Under gevent only: everything here belongs to the hub's thread, but for what the C drain
does without the GIL.
"""

from __future__ import annotations

import time
from typing import Any

from realtime_serve._event_streams import (
    ATTENTION_AGAIN,
    ATTENTION_BLOCKED,
    DrainedStream,
    StreamDrain,
)
from realtime_serve.flush_pace import FlushPace
from realtime_serve.native import GeventParker, GeventWaker


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
        self._sinks: dict[DrainedStream, DrainSink] = {}
        self._waker = waker
        self._timer: Any = None

    @classmethod
    def of(cls, waker: GeventWaker) -> HubDrain:
        """The drain of the waker's hub, made at its first use."""
        if waker.work is None:
            waker.work = cls(waker)
        assert isinstance(waker.work, HubDrain)
        return waker.work

    def add(self, source: DrainedStream, sink: DrainSink) -> None:
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


class DrainSink:
    """Where the drain of a hub puts the tokens of one stream; the EventSource that it reads.

    Args:
        parker: Where the stream's greenlet waits.
        source: What takes the tokens.

    Attributes:
        parker: As given.
    """

    def __init__(self, parker: GeventParker, source: DrainedStream) -> None:
        self.parker = parker
        self._drained = source
        self._drain = HubDrain.of(parker.waker)

    def take(self) -> bytes:
        """See to what is ready, at most one pass's part; returns nothing."""
        nothing = self._drained.take()
        self.attend()
        return nothing

    @property
    def end_state(self) -> int:
        """The ring's terminal state once the last token was taken; OPEN before."""
        return self._drained.end_state

    def take_starved(self) -> bool:
        """Whether the engine has to be kicked; True once."""
        return self._drained.take_starved()

    def attend(self) -> bool:
        """See to what needs no greenlet; returns whether something else does. Raises nothing."""
        attention = self._drained.attention
        if attention & ATTENTION_AGAIN:
            self.parker.waker.flush()  # after what else the hub has to do
        return attention & ~(ATTENTION_BLOCKED | ATTENTION_AGAIN) != 0

    def _join_drain(self) -> None:
        self._drain.add(self._drained, self)
        self.parker.is_left_to_work = True

    def _leave_drain(self) -> None:
        self._drain.discard(self._drained)
        self.parker.is_left_to_work = False
