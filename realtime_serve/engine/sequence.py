"""The state of one request inside the engine: mutable, and never outside its thread.

There is no prefill state and no decode state. A sequence has tokens, and some of them are
computed (their keys and values are in its blocks); a step computes pending ones, and
computing the last of them yields one more token.

    WAITING ──▶ RUNNING ◀──▶ PAUSED        paused: its ring is full; it keeps its blocks
                 │  ▲           │
                 ▼  │           │          preempted: its blocks were taken; all its tokens
               PREEMPTED ◀──────┘          are pending again
    and FINISHED from everywhere
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from realtime_serve._token_ring import TokenRing
from realtime_serve.errors import ServeError
from realtime_serve.types import FinishReason, InferenceRequest

NO_TOKENS: frozenset[int] = frozenset()


class SequenceStatus(enum.Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    PREEMPTED = "preempted"
    FINISHED = "finished"


TRANSITIONS: Mapping[SequenceStatus, frozenset[SequenceStatus]] = MappingProxyType(
    {
        SequenceStatus.WAITING: frozenset({SequenceStatus.RUNNING, SequenceStatus.FINISHED}),
        SequenceStatus.RUNNING: frozenset(
            {SequenceStatus.PAUSED, SequenceStatus.PREEMPTED, SequenceStatus.FINISHED}
        ),
        SequenceStatus.PAUSED: frozenset(
            {SequenceStatus.RUNNING, SequenceStatus.PREEMPTED, SequenceStatus.FINISHED}
        ),
        SequenceStatus.PREEMPTED: frozenset({SequenceStatus.RUNNING, SequenceStatus.FINISHED}),
        SequenceStatus.FINISHED: frozenset(),
    }
)


class Sequence:
    """One request, its tokens and its blocks.

    Args:
        request: What to answer; its prompt leaves room for a token in `max_model_len`.
        ring: Where its tokens go.
        arrival_index: Number of sequences that the engine was given before it.
        seed: Fixes its random numbers.
        eos_token_ids: The model's own stop tokens.
        max_model_len: Longest prompt plus output in tokens; bounds `max_tokens`.

    `token_ids` and `block_table` are arrays of C ints, so that C reads them where they lie. They
    cannot grow while somebody holds a view of them.

    Attributes:
        token_ids: Prompt and output. Only ever appended to.
        num_computed_tokens: How many of them are in the blocks.
        block_table: Its blocks in order; empty while it is waiting or preempted.
        block_digests: What the prefix cache knows its first full blocks by.
        num_committed_blocks: How many of its blocks the prefix cache was told of.
        num_cached_tokens: How many prompt tokens the prefix cache had when it was admitted.
        status: Changed by `enter` only.
        num_preemptions: How often its blocks were taken.
        finish_reason: Why it ended, once it has.
        error: What failed, if that was ERROR.
        rank: Its place in line: class first, then arrival; less is better.
        max_tokens: Most tokens to generate.
        max_num_tokens: Most tokens of prompt and output together.
        stop_token_ids: Tokens that end it.
    """

    __slots__ = (
        "arrival_index",
        "block_digests",
        "block_table",
        "error",
        "finish_reason",
        "max_num_tokens",
        "max_tokens",
        "num_cached_tokens",
        "num_committed_blocks",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "rank",
        "request",
        "ring",
        "seed",
        "status",
        "stop_token_ids",
        "token_ids",
    )

    def __init__(
        self,
        request: InferenceRequest,
        ring: TokenRing,
        *,
        arrival_index: int,
        seed: int,
        eos_token_ids: frozenset[int],
        max_model_len: int,
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.ring = ring
        self.arrival_index = arrival_index
        self.rank = (int(request.priority), arrival_index)
        self.seed = seed
        self.num_prompt_tokens = len(request.prompt_token_ids)
        room = max_model_len - self.num_prompt_tokens
        assert room >= 1
        self.max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        self.max_num_tokens = self.num_prompt_tokens + self.max_tokens
        self.stop_token_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self.stop_token_ids |= eos_token_ids
        self.token_ids = array("i", request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.block_table = array("i")
        self.block_digests: list[bytes] = []
        self.num_committed_blocks = 0
        self.num_cached_tokens = 0
        self.status = SequenceStatus.WAITING
        self.num_preemptions = 0
        self.finish_reason: FinishReason | None = None
        self.error: ServeError | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt and output so far."""
        return len(self.token_ids)

    @property
    def num_generated_tokens(self) -> int:
        """Output so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that are not computed yet; at least one until it has finished."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def max_computed_tokens(self) -> int:
        """Most tokens that will ever be computed: the last one generated never is."""
        return self.max_num_tokens - 1

    @property
    def holds_blocks(self) -> bool:
        """Whether it is running or paused."""
        return self.status is SequenceStatus.RUNNING or self.status is SequenceStatus.PAUSED

    def banned_token_ids(self, output_index: int) -> frozenset[int]:
        """Tokens that may not be output at that place: the stop tokens, up to min_tokens."""
        if output_index < self.request.sampling.min_tokens:
            return self.stop_token_ids
        return NO_TOKENS

    def enter(self, status: SequenceStatus) -> None:
        """Change the status, along TRANSITIONS only."""
        assert status in TRANSITIONS[self.status], f"{self.status} -> {status}"
        self.status = status

    def append(self, token_id: int) -> FinishReason | None:
        """Take the next token.

        Args:
            token_id: The token; not one of its place's `banned_token_ids`.

        Returns:
            Why the sequence ends with it, or None if it goes on.
        """
        self.token_ids.append(token_id)
        if token_id in self.stop_token_ids:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_num_tokens:
            return FinishReason.LENGTH
        return None

    def extend(self, token_ids: Iterable[int]) -> tuple[int, FinishReason | None]:
        """Take the next tokens, up to one that ends it.

        Args:
            token_ids: The tokens, as for `append`.

        Returns:
            How many were taken, and why the sequence ends with the last of them, if it does.
        """
        num_taken = 0
        for token_id in token_ids:
            num_taken += 1
            reason = self.append(token_id)
            if reason is not None:
                return num_taken, reason
        return num_taken, None
