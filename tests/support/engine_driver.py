"""An engine over the stub network, and a worker's part around it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.interface import Finished, StepOutput
from realtime_serve.engine.kv_cache_size import KVCacheLimit
from realtime_serve.engine.kv_storage import bytes_per_block
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.types import BatchConfig, InferenceRequest, RequestPriority, SamplingParams
from support.stub_model import VOCAB_SIZE, HistoryModel

MAX_MODEL_LEN = 64


def prompt(length: int, start: int = 0) -> tuple[int, ...]:
    """Some prompt; the same for the same arguments."""
    return tuple((start + 7 * i) % VOCAB_SIZE for i in range(length))


class EngineDriver:
    """Adds, steps, checks and reads."""

    def __init__(
        self,
        model: HistoryModel | None = None,
        *,
        num_blocks: int = 64,
        max_num_seqs: int = 8,
        max_batch_tokens: int = 64,
        eos_token_ids: frozenset[int] = frozenset(),
        enable_prefix_caching: bool = True,
        target_itl_ms: float | None = None,
        num_speculative_tokens: int = 0,
        stall_timeout_s: float | None = 60.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.model = model or HistoryModel(MAX_MODEL_LEN)
        self.seeds = itertools.count(1000)
        self.engine = LLMEngine(
            TorchRunner(self.model),
            eos_token_ids=eos_token_ids,
            batch=BatchConfig(
                max_num_seqs=max_num_seqs,
                max_batch_tokens=max_batch_tokens,
                target_itl_ms=target_itl_ms,
                num_speculative_tokens=num_speculative_tokens,
                stall_timeout_s=stall_timeout_s,
            ),
            kv_cache_limit=KVCacheLimit(num_blocks * bytes_per_block(self.model)),
            max_model_len=MAX_MODEL_LEN,
            enable_prefix_caching=enable_prefix_caching,
            seed_source=lambda: next(self.seeds),
            clock=clock,
        )
        self.rings: dict[str, TokenRing] = {}
        self.records: dict[str, list[tuple[int, int, float, int]]] = {}
        self.finished: dict[str, Finished] = {}

    def add(
        self,
        prompt: tuple[int, ...],
        *,
        priority: RequestPriority = RequestPriority.NORMAL,
        ring_capacity: int = 256,
        deadline_at_s: float | None = None,
        **sampling: Any,
    ) -> InferenceRequest:
        request = InferenceRequest(
            request_id=str(len(self.rings)),
            model="m",
            prompt_token_ids=prompt,
            sampling=SamplingParams(**{"temperature": 0.0, **sampling}),
            priority=priority,
            deadline_at_s=deadline_at_s,
        )
        ring = TokenRing(ring_capacity)
        self.engine.add(request, ring)
        self.rings[request.request_id] = ring
        self.records[request.request_id] = []
        return request

    def step(self, now_s: float = 0.0) -> StepOutput:
        output = self.engine.step(now_s)
        self.engine.check_integrity()
        for finished in output.finished:
            assert finished.request_id not in self.finished, "it ended twice"
            self.finished[finished.request_id] = finished
        return output

    def read(self, request: InferenceRequest, max_items: int = 1000) -> None:
        self.records[request.request_id] += self.rings[request.request_id].pop(max_items)

    def run(self, limit: int = 1000) -> None:
        """Step until all have ended; every reader keeps up."""
        for _ in range(limit):
            for request_id, ring in self.rings.items():
                self.records[request_id] += ring.pop()
            if self.engine.num_sequences == 0:
                return
            self.step()
        pytest.fail(f"not finished after {limit} steps")

    def tokens(self, request: InferenceRequest) -> list[int]:
        return [token_id for token_id, *_ in self.records[request.request_id]]
