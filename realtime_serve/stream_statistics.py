"""When things happened to one stream, and how many tokens it gave.

The tokens' part is kept in C, where most tokens are seen; everybody reads it here.
"""

from __future__ import annotations

from realtime_serve._event_streams import TOKEN_GAP_BOUNDS_S as TOKEN_GAP_BOUNDS_S
from realtime_serve._event_streams import TokenTimes


class StreamStatistics:
    """Instants in monotonic seconds, and figures of one stream.

    `scheduled_at_s`, `num_cached_tokens` and `num_prefilled_tokens` are written by the inference
    thread, everything else by the consumer.

    Args:
        submitted_at_s: When the request came.

    Attributes:
        num_cached_tokens: Tokens of the prompt that the prefix cache had.
        num_prefilled_tokens: Tokens of a prompt that is computed in parts that are computed by now.
        token_times: Where whoever pops the tokens counts them.
    """

    __slots__ = (
        "finished_at_s",
        "num_cached_tokens",
        "num_prefilled_tokens",
        "scheduled_at_s",
        "submitted_at_s",
        "token_times",
    )

    def __init__(self, submitted_at_s: float) -> None:
        self.submitted_at_s = submitted_at_s
        self.scheduled_at_s: float | None = None
        self.finished_at_s: float | None = None
        self.num_cached_tokens = 0
        self.num_prefilled_tokens = 0
        self.token_times = TokenTimes()

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return self.token_times.num_tokens

    @property
    def first_token_at_s(self) -> float | None:
        """When the first token became visible."""
        return self.token_times.first_at_s

    @property
    def last_token_at_s(self) -> float | None:
        """When the latest token became visible."""
        return self.token_times.last_at_s

    @property
    def inter_token_sum_s(self) -> float:
        """Seconds between tokens, all together."""
        return self.token_times.gap_sum_s

    @property
    def inter_token_counts(self) -> list[int]:
        """Gaps between tokens by TOKEN_GAP_BOUNDS_S, and those above."""
        return self.token_times.gap_counts
