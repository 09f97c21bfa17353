"""TextCollector: the text of a stream whose client wants the whole answer at once.

Each step of the engine would wake the stream's greenlet, which has nothing to do but to wait for
the next one. So the hub's drain takes the tokens, as it does for streams that go to sockets, and
the greenlet sleeps until the end.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Self

from realtime_serve._event_streams import ATTENTION_AGAIN, CollectedStream, EventStream
from realtime_serve.native import GeventParker
from realtime_serve.socket_drain import HubDrain


class TextCollector:
    """Collects the text of one stream; the EventSource that the stream reads, in its hub.

    As a context manager it leaves the hub's drain at the end.

    Args:
        parker: Where the stream's greenlet waits.
        events: The stream's, with nothing before or after their texts.
    """

    def __init__(self, parker: GeventParker, events: EventStream) -> None:
        self.parker = parker
        self._source = CollectedStream(events)
        self._drain = HubDrain.of(parker.waker)

    def __enter__(self) -> Self:
        """Have the hub's drain take the tokens."""
        self._drain.add(self._source, self)
        self.parker.is_left_to_work = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the drain."""
        self._drain.discard(self._source)
        self.parker.is_left_to_work = False

    def take(self) -> bytes:
        """Collect what is ready, at most one pass's part; returns nothing, all is kept."""
        nothing = self._source.take()
        self.attend()
        return nothing

    @property
    def end_state(self) -> int:
        """The ring's terminal state once the last token was taken; OPEN before."""
        return self._source.end_state

    def take_starved(self) -> bool:
        """Whether the engine has to be kicked; True once."""
        return self._source.take_starved()

    def attend(self) -> bool:
        """See to what needs no greenlet; returns whether something else does."""
        attention = self._source.attention
        if attention & ATTENTION_AGAIN:
            self.parker.waker.flush()  # after what else the hub has to do
        return attention & ~ATTENTION_AGAIN != 0

    def text(self) -> str:
        """What was collected so far."""
        return text_of(self._source.collected_events())


def text_of(events: bytes) -> str:
    """The text of events that consist of nothing else: it is escaped as the inside of a string."""
    text: str = json.loads(b'"%b"' % events)
    return text
