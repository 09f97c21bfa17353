"""A scheduler, and what an engine does around it; blocks have 4 tokens.

There is no model: a sequence whose pending tokens are all computed gets token 1.
"""

from __future__ import annotations

import pytest

from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.scheduler import Scheduler, SchedulerOutput
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.types import InferenceRequest, RequestPriority, SamplingParams

BLOCK_SIZE = 4


class SchedulerDriver:
    """Adds, steps and checks; every scheduled sequence is committed."""

    def __init__(
        self, num_blocks: int, *, max_num_seqs: int = 8, max_batch_tokens: int = 64
    ) -> None:
        self.pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(
            self.pool, max_num_seqs=max_num_seqs, max_batch_tokens=max_batch_tokens
        )
        self.max_batch_tokens = max_batch_tokens
        self.added: list[Sequence] = []

    def add(
        self,
        num_prompt: int,
        max_tokens: int = 100,
        *,
        priority: RequestPriority = RequestPriority.NORMAL,
        ring_capacity: int = 1024,
        deadline_at_s: float | None = None,
    ) -> Sequence:
        request = InferenceRequest(
            request_id=str(len(self.added)),
            model="m",
            prompt_token_ids=(0,) * num_prompt,
            sampling=SamplingParams(max_tokens=max_tokens),
            priority=priority,
            deadline_at_s=deadline_at_s,
        )
        sequence = Sequence(
            request,
            TokenRing(ring_capacity),
            arrival_index=len(self.added),
            seed=0,
            eos_token_ids=frozenset(),
            max_model_len=self.pool.num_blocks * BLOCK_SIZE + 1,
        )
        self.scheduler.add(sequence)
        self.added.append(sequence)
        return sequence

    def step(self, now_s: float = 0.0) -> SchedulerOutput:
        plan = self.scheduler.schedule(now_s)
        self.scheduler.check_integrity()
        assert sum(work.num_tokens for work in plan.scheduled) <= self.max_batch_tokens
        assert len({id(work.sequence) for work in plan.scheduled}) == len(plan.scheduled)
        for work in plan.scheduled:
            assert 1 <= work.num_tokens <= work.sequence.num_pending_tokens
            assert work.sequence.ring.free_space() >= 1
            self.scheduler.commit(work, 1 if work.wants_logits else None)
            if work.wants_logits:
                assert work.sequence.ring.push(1)
        self.scheduler.check_integrity()
        return plan

    def steps_until(self, sequence: Sequence, status: SequenceStatus, limit: int = 200) -> None:
        for _ in range(limit):
            if sequence.status is status:
                return
            self.step()
        pytest.fail(f"still {sequence.status} after {limit} steps")


def tokens_by_sequence(plan: SchedulerOutput) -> dict[str, int]:
    return {work.sequence.request.request_id: work.num_tokens for work in plan.scheduled}
