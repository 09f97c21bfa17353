"""What a worker sees of an engine: requests are seated, steps are made, ends come out.

An engine is driven: it has no thread, lock, clock or log. One thread owns it and calls
everything here; the instant of a step is passed in. Tokens do not pass through this
interface: the engine writes them into each request's ring. It never finishes a ring; it
says in a step's output who has ended, and the worker publishes that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from realtime_serve._token_ring import TokenRing
from realtime_serve.errors import ServeError
from realtime_serve.types import FinishReason, InferenceRequest


class Started(NamedTuple):
    """A request that was scheduled for the first time.

    Args:
        request_id: Which request.
        num_cached_tokens: Tokens of its prompt that need not be computed.
    """

    request_id: str
    num_cached_tokens: int


class PromptProgress(NamedTuple):
    """A request whose prompt is computed in parts, after one that is not the last.

    Args:
        request_id: Which request.
        num_computed_tokens: Tokens of its prompt that are computed by now.
    """

    request_id: str
    num_computed_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A request that has left the engine; its seat and blocks are free again.

    Args:
        request_id: Which request.
        reason: Why it ended.
        num_prompt_tokens: Tokens of its prompt.
        num_generated_tokens: Tokens generated for it, a final stop token included.
        error: What failed, if the reason is ERROR; why it was cancelled, if nobody asked for
            it; None otherwise.
    """

    request_id: str
    reason: FinishReason
    num_prompt_tokens: int
    num_generated_tokens: int
    error: ServeError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """What one step did.

    Args:
        started: The requests that were scheduled for the first time.
        prefilling: The requests that got a part of their prompt computed, and no token yet.
        updated: Ids of the requests whose ring got records.
        finished: Requests that ended, each exactly once in the engine's life.
        num_scheduled_tokens: Tokens computed in this step, guesses included.
        stalled: Requests are seated, but none of them can move before a reader makes room
            in a full ring, or somebody cancels, or a request is added, or a deadline passes.
        next_lapse_at_s: When another step is due in any case, since a request ends then whose
            reader does nothing; None if there is none.
    """

    started: tuple[Started, ...]
    updated: tuple[str, ...]
    finished: tuple[Finished, ...]
    num_scheduled_tokens: int
    stalled: bool
    prefilling: tuple[PromptProgress, ...] = ()
    next_lapse_at_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """Figures of an engine at one instant.

    Args:
        max_model_len: Longest prompt plus output in tokens.
        num_waiting: Seated requests that have not been scheduled yet.
        num_running: Seated requests that hold blocks and have room in their ring.
        num_paused: Seated requests that hold blocks and wait for room in their ring.
        num_preempted: Seated requests whose blocks were taken and that wait for new ones.
        kv_blocks_used: KV blocks in use.
        kv_blocks_total: KV blocks there are.
        kv_cache_bytes: Memory that they take once all are in use.
        kv_cache_tokens: Tokens that they hold.
        preemptions_total: Preemptions so far.
        prefix_cache_queries_total: Tokens of all requests that were started.
        prefix_cache_hits_total: How many of them the prefix cache had.
        prompt_tokens_total: Prompt tokens of all requests that got their first token.
        generation_tokens_total: Tokens generated so far.
        num_draft_tokens_total: Tokens guessed ahead so far.
        num_accepted_tokens_total: How many of them were right.
        steps_total: Steps so far that computed something.
    """

    max_model_len: int
    num_waiting: int
    num_running: int
    num_paused: int
    num_preempted: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_cache_bytes: int
    kv_cache_tokens: int
    preemptions_total: int
    prefix_cache_queries_total: int
    prefix_cache_hits_total: int
    prompt_tokens_total: int
    generation_tokens_total: int
    num_draft_tokens_total: int
    num_accepted_tokens_total: int
    steps_total: int


class Engine(Protocol):
    """Steps one version of a model. Only the thread that owns it may call it."""

    @property
    def free_slots(self) -> int:
        """Seats left; `add` needs one."""
        ...

    @property
    def num_sequences(self) -> int:
        """Seats taken: waiting, running, paused and preempted requests."""
        ...

    def add(self, request: InferenceRequest, ring: TokenRing) -> None:
        """Seat a request.

        Args:
            request: What to answer.
            ring: Where its tokens go; the engine is its producer until the request is
                reported as finished.

        Raises:
            ServeError: The request can never be answered by this model; nothing was seated.
        """
        ...

    def step(self, now_s: float) -> StepOutput:
        """Advance the seated requests: by a token each, by a few if they were guessed right.

        Args:
            now_s: The instant, on the clock of the requests' deadlines.

        Returns:
            What happened.
        """
        ...

    def stats(self) -> EngineStats:
        """The figures of this instant."""
        ...

    def close(self) -> None:
        """Free the model and its memory; the engine cannot be stepped any more."""
        ...
