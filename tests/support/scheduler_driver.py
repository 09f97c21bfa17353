"""A scheduler, and what an engine does around it; blocks have 4 tokens.

There is no model: a sequence whose pending tokens are all computed gets token 1, or what
`next_token` makes of the hash of its history. There is a memory, though. Each slot holds the
hash of the whole history up to the token that was computed there, so a step that reads a block
which holds anything else, however it came about, fails.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import pytest

from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.prefill_budget import PrefillBudget
from realtime_serve.engine.prefix_cache import PrefixCache
from realtime_serve.engine.runner import SampledToken
from realtime_serve.engine.scheduler import Scheduler
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.engine.speculation import Speculation, accepted_run
from realtime_serve.engine.step_plan import ScheduledSequence, SchedulerOutput
from realtime_serve.types import InferenceRequest, RequestPriority, SamplingParams

BLOCK_SIZE = 4


class SchedulerDriver:
    """Adds, steps and checks; every scheduled sequence is committed."""

    def __init__(
        self,
        num_blocks: int,
        *,
        max_num_seqs: int = 8,
        max_batch_tokens: int = 64,
        prefill_budget: PrefillBudget | None = None,
        speculation: Speculation | None = None,
        reader_lease_s: float | None = None,
        next_token: Callable[[int], int] = lambda _: 1,
    ) -> None:
        self.pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.prefix_cache = PrefixCache(self.pool)
        self.scheduler = Scheduler(
            self.pool,
            max_num_seqs=max_num_seqs,
            max_batch_tokens=max_batch_tokens,
            prefix_cache=self.prefix_cache,
            prefill_budget=prefill_budget,
            speculation=speculation,
            reader_lease_s=reader_lease_s,
        )
        self.max_batch_tokens = max_batch_tokens
        self.next_token = next_token
        self.added: list[Sequence] = []
        self.started: list[Sequence] = []
        self.memory: dict[tuple[int, int], int | None] = {}
        self.histories: dict[Sequence, list[int]] = {}

    def add(
        self,
        num_prompt: int,
        max_tokens: int = 100,
        *,
        shared: Tokens[int] = (),
        priority: RequestPriority = RequestPriority.NORMAL,
        ring_capacity: int = 1024,
        deadline_at_s: float | None = None,
    ) -> Sequence:
        """Seat a sequence; its prompt begins with `shared` and goes on unlike any other."""
        own = [1000 * (len(self.added) + 1) + i for i in range(num_prompt - len(shared))]
        sequence = self.make_sequence(
            (*shared, *own)[:num_prompt],
            max_tokens,
            priority=priority,
            ring=TokenRing(ring_capacity),
            deadline_at_s=deadline_at_s,
        )
        self.scheduler.add(sequence)
        return sequence

    def fork(self, parent: Sequence, prompt: Tokens[int], max_tokens: int = 100) -> Sequence:
        """Fork a sequence; the prompt begins with some of the parent's tokens."""
        child = self.make_sequence(
            tuple(prompt), max_tokens, priority=parent.request.priority, ring=TokenRing(1024)
        )
        self.scheduler.fork(parent, child)
        return child

    def make_sequence(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        *,
        priority: RequestPriority,
        ring: TokenRing,
        deadline_at_s: float | None = None,
    ) -> Sequence:
        request = InferenceRequest(
            request_id=str(len(self.added)),
            model="m",
            prompt_token_ids=prompt,
            sampling=SamplingParams(max_tokens=max_tokens),
            priority=priority,
            deadline_at_s=deadline_at_s,
        )
        sequence = Sequence(
            request,
            ring,
            arrival_index=len(self.added),
            seed=0,
            eos_token_ids=frozenset(),
            max_model_len=self.pool.num_blocks * BLOCK_SIZE + 1,
        )
        self.added.append(sequence)
        return sequence

    def step(self, now_s: float = 0.0) -> SchedulerOutput:
        plan = self.scheduler.schedule(now_s)
        self.scheduler.check_integrity()
        assert sum(work.num_rows for work in plan.scheduled) <= self.max_batch_tokens
        assert len({id(work.sequence) for work in plan.scheduled}) == len(plan.scheduled)
        self.started += plan.started
        assert len(set(self.started)) == len(self.started), "a sequence starts once"
        for source, destination in plan.block_copies:
            for offset in range(BLOCK_SIZE):
                self.memory[destination, offset] = self.memory.get((source, offset))
        for work in plan.scheduled:
            assert 1 <= work.num_tokens <= work.sequence.num_pending_tokens
            assert work.sequence.ring.free_space() >= work.num_samples
            self.write(work)
        for work in plan.scheduled:
            self.read_back(work)
        for work in plan.scheduled:
            self.commit(work)
        self.scheduler.check_integrity()
        return plan

    def write(self, work: ScheduledSequence) -> None:
        """Do the step's work on the memory."""
        history = self.history_with_drafts(work)
        first = work.sequence.num_computed_tokens
        for position in range(first, first + work.num_rows):
            self.memory[slot_of(work.sequence, position)] = history[position]

    def read_back(self, work: ScheduledSequence) -> None:
        """Check that the sequence's blocks hold its own history, all writes being done."""
        history = self.history_with_drafts(work)
        for position in range(work.sequence.num_computed_tokens + work.num_rows):
            found = self.memory[slot_of(work.sequence, position)]
            assert found == history[position], f"position {position} holds something else"

    def commit(self, work: ScheduledSequence) -> None:
        """Choose the tokens after the rows that want it, and hand them over."""
        history = self.history_with_drafts(work)[-work.num_samples :] if work.wants_logits else []
        samples = [SampledToken(self.next_token(each), 0.0) for each in history]
        token_ids = [token.token_id for token in accepted_run(work.draft_token_ids, samples)]
        for token_id in token_ids[: self.scheduler.commit(work, token_ids)]:
            assert work.sequence.ring.push(token_id)

    def history_with_drafts(self, work: ScheduledSequence) -> list[int]:
        """The history that it has if its guesses are right."""
        hashes = self.history(work.sequence)[: work.sequence.num_computed_tokens + work.num_tokens]
        return _extended(hashes, work.draft_token_ids)

    def history(self, sequence: Sequence) -> list[int]:
        """A hash for each of its tokens, of that token and all before it."""
        hashes = self.histories.setdefault(sequence, [])
        hashes[:] = _extended(hashes, sequence.token_ids[len(hashes) :])
        return hashes

    def steps_until(self, sequence: Sequence, status: SequenceStatus, limit: int = 200) -> None:
        for _ in range(limit):
            if sequence.status is status:
                return
            self.step()
        pytest.fail(f"still {sequence.status} after {limit} steps")


def _extended(hashes: list[int], token_ids: Tokens[int]) -> list[int]:
    extended = list(hashes)
    for token_id in token_ids:
        extended.append(hash((extended[-1] if extended else 0, token_id)))
    return extended


def slot_of(sequence: Sequence, position: int) -> tuple[int, int]:
    """Block and offset of a position."""
    return sequence.block_table[position // BLOCK_SIZE], position % BLOCK_SIZE


def tokens_by_sequence(plan: SchedulerOutput) -> dict[str, int]:
    return {work.sequence.request.request_id: work.num_tokens for work in plan.scheduled}
