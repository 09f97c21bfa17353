"""When things happened to one stream, and how much it gave to whom.

The tokens' part is kept in C, where most tokens are seen, and so are the bytes that go straight
to a socket; everybody reads both here.
"""

from __future__ import annotations

import enum
from typing import Protocol

from realtime_serve._event_streams import TOKEN_GAP_BOUNDS_S as TOKEN_GAP_BOUNDS_S
from realtime_serve._event_streams import TokenTimes
from realtime_serve._token_ring import TokenRing


class StreamState(enum.Enum):
    """What an open stream waits for."""

    QUEUED = "queued"
    PREFILL = "prefill"
    STREAMING = "streaming"
    PAUSED = "paused"


class ByteCounts(Protocol):
    """Who sends a stream's events, and counts."""

    @property
    def num_sent_bytes(self) -> int:
        """Bytes that the kernel took, framing included."""

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes that it has yet to take, or never took before the connection ended."""


class StreamStatistics:
    """Instants in monotonic seconds, and figures of one stream. Any thread may read them.

    `scheduled_at_s`, `num_cached_tokens` and `num_prefilled_tokens` are written by the inference
    thread, everything else by the consumer.

    Args:
        submitted_at_s: When the request came.
        ring: Through which its tokens come.

    Attributes:
        num_cached_tokens: Tokens of the prompt that the prefix cache had.
        num_prefilled_tokens: Tokens of a prompt that is computed in parts that are computed by now.
        token_times: Where whoever pops the tokens counts them.
        num_yielded_bytes: Bytes of events that were handed to a WSGI server.
        socket: Who sends the others; None if there are none.
    """

    __slots__ = (
        "_ring",
        "finished_at_s",
        "num_cached_tokens",
        "num_prefilled_tokens",
        "num_yielded_bytes",
        "scheduled_at_s",
        "socket",
        "submitted_at_s",
        "token_times",
    )

    def __init__(self, submitted_at_s: float, ring: TokenRing) -> None:
        self._ring = ring
        self.submitted_at_s = submitted_at_s
        self.scheduled_at_s: float | None = None
        self.finished_at_s: float | None = None
        self.num_cached_tokens = 0
        self.num_prefilled_tokens = 0
        self.num_yielded_bytes = 0
        self.socket: ByteCounts | None = None
        self.token_times = TokenTimes()

    def add_socket(self, socket: ByteCounts) -> None:
        """Count what a socket sends; one before it is done."""
        if self.socket is not None:
            self.num_yielded_bytes += self.socket.num_sent_bytes
        self.socket = socket

    @property
    def state(self) -> StreamState:
        """What the stream waits for, unless it has ended."""
        if self.scheduled_at_s is None:
            return StreamState.QUEUED
        if self._ring.is_stalled:
            return StreamState.PAUSED
        return StreamState.PREFILL if self.first_token_at_s is None else StreamState.STREAMING

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return self.token_times.num_tokens

    @property
    def num_sent_bytes(self) -> int:
        """Bytes of events that the kernel or a WSGI server took."""
        return self.num_yielded_bytes + (0 if self.socket is None else self.socket.num_sent_bytes)

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes of events that the kernel does not take; what a WSGI server holds is not known."""
        return 0 if self.socket is None else self.socket.num_unsent_bytes

    @property
    def paused_s(self) -> float:
        """How long the engine has waited for room in the ring: for a slow reader."""
        return self._ring.stalled_s

    @property
    def first_token_at_s(self) -> float | None:
        """When the first token became visible."""
        return self.token_times.first_at_s

    @property
    def last_token_at_s(self) -> float | None:
        """When the latest token became visible."""
        return self.token_times.last_at_s

    @property
    def queue_s(self) -> float | None:
        """Time to the first step of the engine; None if there was none."""
        scheduled_at_s = self.scheduled_at_s
        return None if scheduled_at_s is None else scheduled_at_s - self.submitted_at_s

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token; None if there was none."""
        first_at_s = self.first_token_at_s
        return None if first_at_s is None else first_at_s - self.submitted_at_s

    @property
    def inter_token_sum_s(self) -> float:
        """Seconds between tokens, all together."""
        return self.token_times.gap_sum_s

    @property
    def inter_token_counts(self) -> list[int]:
        """Gaps between tokens by TOKEN_GAP_BOUNDS_S, and those above."""
        return self.token_times.gap_counts

    def inter_token_quantile_s(self, share: float) -> float | None:
        """Estimate the gap that a share of all gaps do not exceed.

        Args:
            share: Above 0, at most 1: 0.5 is the median.

        Returns:
            Seconds, right to the width of a bucket, in which gaps are taken to be spread
            evenly; of gaps above all bounds, the last bound. None if there is no gap.
        """
        if self.num_tokens < 2:
            return None
        counts = self.inter_token_counts
        rank = share * sum(counts)
        lower_s, num_below = 0.0, 0
        for bound_s, count in zip(TOKEN_GAP_BOUNDS_S, counts, strict=False):
            if num_below + count >= rank:
                return lower_s + (bound_s - lower_s) * (rank - num_below) / count
            lower_s, num_below = bound_s, num_below + count
        return lower_s
