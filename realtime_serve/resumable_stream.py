"""ResumableStream: a stream that outlives the connections of its client.

    TokenStream ── keeper ──▶ EventLog ── reader ──▶ connection

The keeper, a greenlet or a thread, is the only consumer of the tokens, whether or not somebody
is connected. A reader is one connection's place in the log; there is at most one, and a new one
takes over from the one before. Its client is there until it leaves; who was never there has been
gone since the stream was opened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from realtime_serve.errors import ServeError, StreamNotFoundError
from realtime_serve.event_log import Event, EventLog
from realtime_serve.native import Lock, new_parker
from realtime_serve.stream import TokenStream
from realtime_serve.stream_statistics import StreamStatistics
from realtime_serve.types import StreamProgress

READ_EVENTS = 256
"""Most events that are read at once: about 64 KiB on the wire."""


class ResumableStream:
    """One stream and its events. Any thread may call.

    Args:
        stream_id: What its client knows it by, and nobody else.
        stream: Where the tokens come from.
        frame: Makes an event of a text.

    Attributes:
        statistics: The stream's.
        frame: As given.
    """

    def __init__(self, stream_id: str, stream: TokenStream, frame: Callable[[str], bytes]) -> None:
        self.id = stream_id
        self.statistics: StreamStatistics = stream.statistics
        self.frame = frame
        self._stream: TokenStream | None = stream  # not for longer than it runs: it has the prompt
        self._log = EventLog()
        self._lock = Lock()
        self._opened_at_s = time.monotonic()
        self._reader: StreamReader | None = None
        self._is_full = False

    # --- for those who want to read -------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether its last event is in the log."""
        return self._log.closed

    @property
    def numbers(self) -> range:
        """The numbers of the events that are in the log."""
        with self._lock:
            return range(self._log.first, self._log.end)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the events take."""
        with self._lock:
            return self._log.num_bytes

    @property
    def alone_since_s(self) -> float | None:
        """Since when nobody is connected; None if somebody is."""
        reader = self._reader
        return self._opened_at_s if reader is None else reader.left_at_s

    @property
    def was_read(self) -> bool:
        """Whether somebody is, or was, connected."""
        return self._reader is not None

    @property
    def progress(self) -> StreamProgress | None:
        """How far it is from its first token; None from then on."""
        stream = self._stream
        return None if stream is None else stream.progress

    def attach(self, number: int) -> StreamReader:
        """Take over as the reader.

        Args:
            number: The first event to read.

        Returns:
            The calling thread's or hub's reader.
        """
        reader = StreamReader(self, number)
        with self._lock:
            former, self._reader = self._reader, reader
        if former is not None:
            former.give_way()
        return reader

    def read(self, number: int) -> list[tuple[int, Event]]:
        """Give the next events with their numbers, at most READ_EVENTS.

        Raises:
            StreamNotFoundError: They have been forgotten.
        """
        with self._lock:
            if number < self._log.first:
                raise StreamNotFoundError(
                    f"The stream's events before {self._log.first} were forgotten, since memory "
                    "was short."
                )
            return list(enumerate(self._log.read(number, READ_EVENTS), number))

    def renew_lease(self) -> None:
        """Tell the engine that the reader is slow, but reads: the keeper may wait for it."""
        stream = self._stream
        if stream is not None:
            stream.renew_lease()

    def wake_keeper(self) -> None:
        """Have the keeper look again, if it waits for its reader."""
        stream = self._stream
        if self._is_full and stream is not None:
            stream.feed.call().flush()

    # --- for the keeper -------------------------------------------------------

    def append(self, events: Iterable[Event]) -> None:
        """Add events, and wake the reader."""
        with self._lock:
            for event in events:
                self._log.append(event)
        self._wake_reader()

    def close(self, events: Sequence[Event]) -> None:
        """Add the last events, and wake the reader."""
        with self._lock:
            for event in events:
                self._log.append(event)
            self._log.close()
        self._stream = None
        self._wake_reader()

    def drop_read_events(self) -> None:
        """Forget what the reader has read: that cannot be resumed any more."""
        reader = self._reader
        with self._lock:
            if reader is not None:
                self._log.drop_before(min(reader.next_number, self._log.end))

    def wait_until_read(self) -> None:
        """Wait until the reader has read all that there is or has left, or the stream ends."""
        stream = self._stream
        assert stream is not None
        self._is_full = True
        stream.wait_until(self._is_read)
        self._is_full = False

    def cancel(self) -> None:
        """Have the stream end as cancelled, unless it has ended."""
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _is_read(self) -> bool:
        reader = self._reader
        return reader is None or reader.left_at_s is not None or reader.has_read_all

    def _wake_reader(self) -> None:
        reader = self._reader
        if reader is not None:
            reader.wake()


class StreamReader:
    """One connection's place in a stream. Its own thread or hub reads; any may do the rest.

    Args:
        stream: What to read.
        number: The first event to read.

    Attributes:
        next_number: The next event to read.
        left_at_s: When its client went; None while it is there.
        was_replaced: Whether another reader has taken over.
        error: Why its client was given up, if it was.
    """

    def __init__(self, stream: ResumableStream, number: int) -> None:
        self.next_number = number
        self.left_at_s: float | None = None
        self.was_replaced = False
        self.error: ServeError | None = None
        self.parker = new_parker()
        self._stream = stream

    @property
    def has_read_all(self) -> bool:
        """Whether there is nothing more to read, for now."""
        return self.next_number >= self._stream.numbers.stop

    @property
    def is_over(self) -> bool:
        """Whether there never will be."""
        return self.was_replaced or self.left_at_s is not None or self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether it has read the stream's last event."""
        ended = self._stream.ended  # before the look: it covers all events
        return ended and self.has_read_all

    def read(self, timeout_s: float) -> list[tuple[int, Event]]:
        """Wait for events and return them with their numbers.

        Args:
            timeout_s: Longest wait.

        Returns:
            At least one, or none if the timeout passed or `is_over`.

        Raises:
            StreamNotFoundError: See ResumableStream.read.
        """
        events: list[tuple[int, Event]] = []

        def take() -> bool:
            events.extend(self._stream.read(self.next_number))
            return bool(events)

        self.wait_until(take, timeout_s)
        if events:
            self.next_number = events[-1][0] + 1
            self._stream.wake_keeper()
        return events

    def wait_until(self, holds: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait for something; whoever makes it so wakes the parker.

        Args:
            holds: Whether it has come.
            timeout_s: Longest wait; None has no limit.

        Returns:
            False if the timeout passed, or `is_over`, first.
        """
        give_up_at_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not self.is_over:
            if holds():
                return True
            remaining_s = give_up_at_s - time.monotonic()
            if remaining_s <= 0:
                return False
            self.parker.park(None if math.isinf(remaining_s) else remaining_s)
        return False

    def renew_lease(self) -> None:
        """Note that the client is slow, but takes what it is sent."""
        self._stream.renew_lease()

    def cancel(self, error: ServeError | None = None) -> None:
        """Give up the client, but not the stream."""
        if error is not None:
            self.error = error
        self.leave()

    def leave(self) -> None:
        """Note that the client has gone. May be called again, by a finaliser, too: no lock."""
        if self.left_at_s is None:
            self.left_at_s = time.monotonic()
            self.wake()
            self._stream.wake_keeper()

    def give_way(self) -> None:
        """End, since another reader has taken over."""
        self.was_replaced = True
        self.wake()

    def wake(self) -> None:
        """Have its thread or greenlet look again."""
        self.parker.waker.add(self.parker)
        self.parker.waker.flush()
