"""StreamFeed: the inference thread's end of a stream.

It is what waits in the queue and sits in the engine. It does not know the stream, which its
consumer may forget, but where that consumer waits.
"""

from __future__ import annotations

from realtime_serve import _token_ring as ring_states
from realtime_serve._token_ring import TokenRing
from realtime_serve.errors import ServeError
from realtime_serve.native import Parker, Waker
from realtime_serve.stream_statistics import StreamStatistics
from realtime_serve.types import FinishReason, InferenceRequest

RING_STATES = {
    FinishReason.STOP: ring_states.STOP,
    FinishReason.LENGTH: ring_states.LENGTH,
    FinishReason.CANCELLED: ring_states.CANCELLED,
    FinishReason.DEADLINE: ring_states.DEADLINE,
    FinishReason.ERROR: ring_states.ERROR,
}
REASONS_BY_STATE = {state: reason for reason, state in RING_STATES.items()}


class StreamFeed:
    """The inference thread's end of a stream; what waits in the queue and sits in the engine.

    Args:
        request: The request to answer.
        ring: Where its tokens go.
        parker: Where its consumer waits, who may wait elsewhere later.
        statistics: Shared with the consumer's end.
    """

    __slots__ = ("error", "parker", "request", "ring", "statistics")

    def __init__(
        self,
        request: InferenceRequest,
        ring: TokenRing,
        parker: Parker,
        statistics: StreamStatistics,
    ) -> None:
        self.request = request
        self.ring = ring
        self.parker = parker
        self.statistics = statistics
        self.error: ServeError | None = None

    def end(self, reason: FinishReason, error: ServeError | None = None) -> None:
        """End the stream; only the first end counts. The caller wakes the consumer.

        The error is written before the state that publishes it.
        """
        if error is not None and self.ring.state == ring_states.OPEN:
            self.error = error
        self.ring.finish(RING_STATES[reason])

    def call(self) -> Waker:
        """Have the consumer woken at the next flush of the waker that is returned."""
        parker = self.parker  # once: the consumer may put another one there at any time
        parker.waker.add(parker)
        return parker.waker
