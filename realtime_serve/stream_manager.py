"""StreamManager: the table of the streams that are open."""

from __future__ import annotations

import weakref
from collections import Counter

from realtime_serve.stream import TokenStream
from realtime_serve.stream_statistics import StreamState


class StreamManager:
    """The open streams of a process, so that they can be counted. Any thread may call.

    Holds them weakly: being listed keeps no forgotten stream alive. It has no lock,
    since a stream may be collected, and so leave the table, in the middle of any
    allocation; each operation on the dict is atomic by itself.
    """

    def __init__(self) -> None:
        self._streams: dict[int, weakref.ref[TokenStream]] = {}

    def __len__(self) -> int:
        """Open streams."""
        return len(self._streams)

    def add(self, stream: TokenStream) -> None:
        """List a stream until it ends or is forgotten."""
        key, streams = id(stream), self._streams

        def discard(_: object) -> None:
            streams.pop(key, None)

        streams[key] = weakref.ref(stream, discard)
        stream.add_end_callback(discard)

    def all(self) -> list[TokenStream]:
        """The open streams, in the order in which they were added."""
        streams = [reference() for reference in list(self._streams.values())]
        return [stream for stream in streams if stream is not None]

    def count_by_state(self) -> Counter[tuple[str, StreamState]]:
        """How many are open by the name of their model and by state."""
        return Counter((stream.request.model, stream.statistics.state) for stream in self.all())
