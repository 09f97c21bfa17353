"""TextCollector: the text of a stream whose client wants the whole answer at once.

Each step of the engine would wake the stream's greenlet, which has nothing to do but to wait for
the next one. So the hub's drain takes the tokens, as it does for streams that go to sockets, and
the greenlet sleeps until the end.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self

from realtime_serve._event_streams import CollectedStream, EventStream
from realtime_serve.hub_drain import DrainSink
from realtime_serve.native import GeventParker


class TextCollector(DrainSink):
    """Collects the text of one stream.

    As a context manager it is in the hub's drain until the end.

    Args:
        parker: Where the stream's greenlet waits.
        events: The stream's, with nothing before or after their texts.
    """

    def __init__(self, parker: GeventParker, events: EventStream) -> None:
        self._source = CollectedStream(events)
        super().__init__(parker, self._source)

    def __enter__(self) -> Self:
        """Have the hub's drain take the tokens."""
        self._join_drain()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the drain."""
        self._leave_drain()

    def text(self) -> str:
        """What was collected so far."""
        return text_of(self._source.collected_events())


def text_of(events: bytes) -> str:
    """The text of events that consist of nothing else: it is escaped as the inside of a string."""
    text: str = json.loads(b'"%b"' % events)
    return text
