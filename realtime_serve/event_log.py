"""EventLog: the events of one stream by number, so that any of them can be sent again.

An event that adds text is kept as that text alone, all texts end to end in one buffer: some
dozen bytes instead of the few hundred that it has on the wire. The few others are kept whole.
"""

from __future__ import annotations

from array import array

Event = str | bytes
"""A text to be framed, or an event that is ready to be sent."""


class EventLog:
    """The events of one stream, numbered from 0. One thread at a time.

    Attributes:
        closed: Whether there will be no more.
    """

    def __init__(self) -> None:
        self.closed = False
        self._first = 0
        self._texts = bytearray()
        self._ends = array("Q")  # where each kept event's text ends, counted from the first event
        self._num_dropped_bytes = 0
        self._whole: dict[int, bytes] = {}

    @property
    def first(self) -> int:
        """Number of the oldest event that is still here."""
        return self._first

    @property
    def end(self) -> int:
        """Number that the next event will have."""
        return self._first + len(self._ends)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the events take."""
        whole = sum(map(len, self._whole.values()))
        return len(self._texts) + self._ends.itemsize * len(self._ends) + whole

    def append(self, event: Event) -> None:
        """Add an event; a lone surrogate in a text, which UTF-8 cannot carry, becomes "?"."""
        assert not self.closed
        if isinstance(event, str):
            self._texts += event.encode("utf-8", "replace")
        else:
            self._whole[self.end] = event
        self._ends.append(self._num_dropped_bytes + len(self._texts))

    def close(self) -> None:
        """Say that the last event is there."""
        self.closed = True

    def read(self, number: int, max_events: int) -> list[Event]:
        """Give events in their order.

        Args:
            number: The first one's; neither dropped nor beyond `end`.
            max_events: How many at most.

        Returns:
            Those that are there; none if `number` is `end`.
        """
        assert self._first <= number <= self.end
        return [self._event(each) for each in range(number, min(number + max_events, self.end))]

    def drop_before(self, number: int) -> None:
        """Forget the events with smaller numbers; at most `end`."""
        assert number <= self.end
        if number <= self._first:
            return
        num_bytes = self._start_of(number) - self._num_dropped_bytes
        del self._texts[:num_bytes]
        del self._ends[: number - self._first]
        self._num_dropped_bytes += num_bytes
        self._first = number
        self._whole = {each: event for each, event in self._whole.items() if each >= number}

    def _event(self, number: int) -> Event:
        whole = self._whole.get(number)
        if whole is not None:
            return whole
        start, end = self._start_of(number), self._start_of(number + 1)
        dropped = self._num_dropped_bytes
        return self._texts[start - dropped : end - dropped].decode()

    def _start_of(self, number: int) -> int:
        if number == self._first:
            return self._num_dropped_bytes
        return self._ends[number - self._first - 1]
