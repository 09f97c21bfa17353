"""LLMEngine: generation for many requests that share each step of one model."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeAlias

from realtime_serve._token_ring import FLAG_LAST, FLAG_NO_TEXT, TokenRing
from realtime_serve.engine.interface import (
    EngineStats,
    Finished,
    PromptProgress,
    Started,
    StepOutput,
)
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.kv_cache_size import KVCacheLimit, choose_num_blocks
from realtime_serve.engine.prefill_budget import PrefillBudget
from realtime_serve.engine.prefix_cache import PrefixCache
from realtime_serve.engine.runner import (
    BLOCK_SIZE,
    ModelRunner,
    SampledToken,
    SamplingRow,
    ScheduledRows,
)
from realtime_serve.engine.scheduler import Scheduler
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.engine.speculation import Speculation, accepted_run
from realtime_serve.engine.step_plan import ScheduledSequence, SchedulerOutput
from realtime_serve.errors import (
    ContextLengthExceededError,
    EngineError,
    InvalidRequestError,
)
from realtime_serve.types import BatchConfig, FinishReason, InferenceRequest

StepResult: TypeAlias = list[SampledToken] | EngineError
"""What came of one sequence's work: its next tokens, none after a prompt's chunk; or a failure."""


def random_seed() -> int:
    """A fresh seed for a request that brings none."""
    return secrets.randbits(64)


class LLMEngine:
    """Continuous batching over one causal language model. One thread owns it.

    A failure of the model fails the requests that it is about, and nobody else: a step that
    raises is computed again request by request, without guesses, and those that raise alone end
    with an EngineError whose `__cause__` is what was raised.

    Args:
        runner: The network; the engine makes its KV cache.
        eos_token_ids: Tokens that end a sequence, unless its request ignores them.
        batch: Seats, token budget, guesses and what becomes of readers that do not read.
        kv_cache_limit: Most memory for keys and values.
        max_model_len: Longest prompt plus output in tokens, at most the model's own.
        enable_prefix_caching: Whether prompts that begin alike share what was computed.
        seed_source: Gives seeds to requests without one.
        clock: Tells seconds. What steps cost is learnt by it: without one, the batch's
            target_itl_ms bounds nothing.

    Attributes:
        max_model_len: As given, or what the KV cache holds if that is less: a lone
            sequence must fit. A request's max_tokens is cut to the room left by it.
        notices: What the operator should know.

    Raises:
        ModelLoadError: The KV cache would be too small to be of use, or too large for the memory.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        eos_token_ids: frozenset[int],
        batch: BatchConfig,
        kv_cache_limit: KVCacheLimit,
        max_model_len: int,
        enable_prefix_caching: bool = True,
        seed_source: Callable[[], int] = random_seed,
        clock: Callable[[], float] | None = None,
    ) -> None:
        num_blocks, self.notices = choose_num_blocks(
            runner.bytes_per_block, kv_cache_limit, batch=batch, max_model_len=max_model_len
        )
        self.max_model_len = min(max_model_len, num_blocks * BLOCK_SIZE)
        self._vocab_size = runner.vocab_size
        self._eos_token_ids = eos_token_ids
        self._seed_source = seed_source
        runner.allocate(num_blocks)
        self._kv_cache_bytes = num_blocks * runner.bytes_per_block
        self._runner: ModelRunner | None = runner
        self._pool = BlockPool(num_blocks, BLOCK_SIZE)
        self._prefix_cache = PrefixCache(self._pool) if enable_prefix_caching else None
        num_speculative = batch.num_speculative_tokens
        self._speculation = Speculation(num_speculative) if num_speculative > 0 else None
        self._scheduler = Scheduler(
            self._pool,
            max_num_seqs=batch.max_num_seqs,
            max_batch_tokens=batch.max_batch_tokens,
            prefix_cache=self._prefix_cache,
            prefill_budget=None if clock is None else _prefill_budget(batch),
            speculation=self._speculation,
            reader_lease_s=batch.reader_lease_s,
        )
        self._clock = clock
        self._num_added = 0
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0

    @property
    def free_slots(self) -> int:
        """Seats left; `add` needs one."""
        return self._scheduler.free_slots

    @property
    def num_sequences(self) -> int:
        """Seats taken: waiting, running, paused and preempted requests."""
        return self._scheduler.num_sequences

    def add(self, request: InferenceRequest, ring: TokenRing) -> None:
        """Seat a request.

        Args:
            request: What to answer. Its max_tokens is cut to what the context leaves.
            ring: Where its tokens go; the engine is its producer until the request is
                reported as finished.

        Raises:
            ContextLengthExceededError: The prompt leaves no room for a token.
            InvalidRequestError: A token id is not in the model's vocabulary.
        """
        self._check(request)
        seed = request.sampling.seed
        sequence = Sequence(
            request,
            ring,
            arrival_index=self._num_added,
            seed=self._seed_source() if seed is None else seed,
            eos_token_ids=self._eos_token_ids,
            max_model_len=self.max_model_len,
        )
        self._scheduler.add(sequence)
        self._num_added += 1

    def step(self, now_s: float) -> StepOutput:
        """Advance the seated requests: by a token each, by a few if they were guessed right.

        Args:
            now_s: The instant, on the clock of the requests' deadlines.

        Returns:
            What happened.
        """
        assert self._runner is not None, "the engine is closed"
        plan = self._scheduler.schedule(now_s)
        results = self._compute_and_observe(self._runner, plan)
        updated = self._commit(plan.scheduled, results)
        return self._report(plan, updated)

    def stats(self) -> EngineStats:
        """The figures of this instant."""
        num_by_status = self._scheduler.count_by_status()
        cache, speculation = self._prefix_cache, self._speculation
        return EngineStats(
            max_model_len=self.max_model_len,
            num_waiting=num_by_status[SequenceStatus.WAITING],
            num_running=num_by_status[SequenceStatus.RUNNING],
            num_paused=num_by_status[SequenceStatus.PAUSED],
            num_preempted=num_by_status[SequenceStatus.PREEMPTED],
            kv_blocks_used=self._pool.num_used,
            kv_blocks_total=self._pool.num_blocks,
            kv_cache_bytes=self._kv_cache_bytes,
            kv_cache_tokens=self._pool.num_blocks * BLOCK_SIZE,
            preemptions_total=self._scheduler.num_preemptions,
            prefix_cache_queries_total=0 if cache is None else cache.num_queried_tokens,
            prefix_cache_hits_total=0 if cache is None else cache.num_hit_tokens,
            prompt_tokens_total=self._num_prompt_tokens,
            generation_tokens_total=self._num_generated_tokens,
            num_draft_tokens_total=0 if speculation is None else speculation.num_draft_tokens,
            num_accepted_tokens_total=0 if speculation is None else speculation.num_accepted_tokens,
            steps_total=self._num_steps,
        )

    def close(self) -> None:
        """Free the model and its memory; the engine cannot be stepped any more."""
        self._runner = None

    def check_integrity(self) -> None:
        """Assert that seats, statuses and blocks agree. Holds between steps."""
        self._scheduler.check_integrity()

    # --- add ------------------------------------------------------------------

    def _check(self, request: InferenceRequest) -> None:
        num_prompt_tokens = len(request.prompt_token_ids)
        if num_prompt_tokens >= self.max_model_len:
            raise ContextLengthExceededError(
                f"The prompt has {num_prompt_tokens} tokens. The model's context is "
                f"{self.max_model_len} tokens, and at least one of them is for the answer: "
                "shorten the prompt."
            )
        self._check_vocabulary(request.prompt_token_ids, "prompt")
        self._check_vocabulary(request.sampling.stop_token_ids, "stop_token_ids")

    def _check_vocabulary(self, token_ids: tuple[int, ...], param: str) -> None:
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise InvalidRequestError(
                f"{param} has a token id outside the vocabulary: ids are from 0 to "
                f"{self._vocab_size - 1}.",
                param=param,
            )

    # --- step -----------------------------------------------------------------

    def _compute_and_observe(self, runner: ModelRunner, plan: SchedulerOutput) -> list[StepResult]:
        """Do a step's work, and let the scheduler know how long it took."""
        start_s = self._clock() if self._clock is not None else 0.0
        if plan.block_copies:
            runner.copy_blocks(plan.block_copies)
        results = self._compute(runner, plan.scheduled)
        if self._clock is not None:
            self._scheduler.observe(plan, self._clock() - start_s)
        return results

    def _compute(self, runner: ModelRunner, scheduled: list[ScheduledSequence]) -> list[StepResult]:
        """Run the model and choose the tokens; a failure stays with those whom it concerns.

        Work may be computed again: it writes the same keys and values to the same slots, and
        the random numbers are functions of the request.
        """
        if not scheduled:
            return []
        try:
            return self._run(runner, scheduled)
        except Exception as cause:
            if len(scheduled) == 1 and not scheduled[0].draft_token_ids:
                return [_failure(cause)]
        alone = [work._replace(draft_token_ids=()) for work in scheduled]
        return [result for work in alone for result in self._compute(runner, [work])]

    def _run(self, runner: ModelRunner, scheduled: list[ScheduledSequence]) -> list[StepResult]:
        samples = iter(runner.run([_rows(work) for work in scheduled]))
        return [_result(work, list(islice(samples, work.num_samples))) for work in scheduled]

    def _commit(
        self, scheduled: Iterable[ScheduledSequence], results: Iterable[StepResult]
    ) -> list[str]:
        """Record the results and push the tokens; returns the ids of those that got one."""
        updated = []
        for work, result in zip(scheduled, results, strict=True):
            match result:
                case EngineError():
                    self._scheduler.finish(work.sequence, FinishReason.ERROR, result)
                case tokens:
                    num_taken = self._scheduler.commit(work, [each.token_id for each in tokens])
                    if num_taken > 0:
                        self._push(work.sequence, tokens[:num_taken])
                        updated.append(work.sequence.request.request_id)
        return updated

    def _push(self, sequence: Sequence, tokens: list[SampledToken]) -> None:
        *before, last = tokens
        for token in before:
            _push(sequence, token, flags=0)
        _push(sequence, last, flags=_flags(sequence.finish_reason))
        self._num_generated_tokens += len(tokens)
        if sequence.num_generated_tokens == len(tokens):
            self._num_prompt_tokens += sequence.num_prompt_tokens

    def _report(self, plan: SchedulerOutput, updated: list[str]) -> StepOutput:
        scheduled = [work.sequence for work in plan.scheduled]
        ended = [sequence for sequence in scheduled if sequence.finish_reason is not None]
        self._num_steps += bool(scheduled)
        return StepOutput(
            started=tuple(_started(sequence) for sequence in plan.started),
            prefilling=tuple(map(_prompt_progress, filter(_is_prefilling, scheduled))),
            updated=tuple(updated),
            finished=tuple(_finished(sequence) for sequence in [*plan.dropped, *ended]),
            num_scheduled_tokens=sum(work.num_rows for work in plan.scheduled),
            stalled=not scheduled and self.num_sequences > 0,
            next_lapse_at_s=plan.next_lapse_at_s,
        )


# --- between the engine's parts -----------------------------------------------


def _rows(work: ScheduledSequence) -> ScheduledRows:
    sequence = work.sequence
    start, output_index = sequence.num_computed_tokens, sequence.num_generated_tokens
    token_ids = sequence.token_ids[start : start + work.num_tokens]
    token_ids.extend(work.draft_token_ids)
    return ScheduledRows(
        token_ids=token_ids,
        start_position=start,
        block_table=sequence.block_table,
        samples=[_sampling_row(sequence, output_index + i) for i in range(work.num_samples)],
    )


def _sampling_row(sequence: Sequence, output_index: int) -> SamplingRow:
    return SamplingRow(
        params=sequence.request.sampling,
        seed=sequence.seed,
        output_index=output_index,
        banned_token_ids=sequence.banned_token_ids(output_index),
    )


def _result(work: ScheduledSequence, samples: list[SampledToken | None]) -> StepResult:
    tokens = accepted_run(work.draft_token_ids, samples)
    if work.wants_logits and not tokens:
        return EngineError("The model gave no finite logits for this request.")
    return tokens


def _push(sequence: Sequence, token: SampledToken, flags: int) -> None:
    pushed = sequence.ring.push(token.token_id, logprob=token.logprob, flags=flags)
    assert pushed, "a sequence is scheduled only if its ring has room"


def _failure(cause: Exception) -> EngineError:
    """What the caller sees; the cause may name our paths and sizes, and is for the log."""
    error = EngineError("The model failed on this request.")
    error.__cause__ = cause
    return error


def _flags(reason: FinishReason | None) -> int:
    match reason:
        case None:
            return 0
        case FinishReason.STOP:
            return FLAG_LAST | FLAG_NO_TEXT
        case _:
            return FLAG_LAST


def _started(sequence: Sequence) -> Started:
    return Started(sequence.request.request_id, sequence.num_cached_tokens)


def _is_prefilling(sequence: Sequence) -> bool:
    return sequence.num_generated_tokens == 0 and sequence.finish_reason is None


def _prompt_progress(sequence: Sequence) -> PromptProgress:
    return PromptProgress(sequence.request.request_id, sequence.num_computed_tokens)


def _finished(sequence: Sequence) -> Finished:
    assert sequence.finish_reason is not None
    return Finished(
        request_id=sequence.request.request_id,
        reason=sequence.finish_reason,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_generated_tokens=sequence.num_generated_tokens,
        error=sequence.error,
    )


def _prefill_budget(batch: BatchConfig) -> PrefillBudget | None:
    return None if batch.target_itl_ms is None else PrefillBudget(batch.target_itl_ms / 1000)
