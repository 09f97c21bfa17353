"""Random histories: whatever happens around a sequence, its output is the same.

Requests of all classes arrive, are cancelled and expire; readers are quick, slow and
asleep; the pool holds one long sequence, so that sequences are preempted all the time; some
prompts begin alike; steps take any time, so that chunks have any size; and tokens are guessed
ahead, some of them right.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from realtime_serve import _token_ring
from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.interface import Finished
from realtime_serve.engine.kv_cache_size import KVCacheLimit
from realtime_serve.engine.kv_storage import bytes_per_block
from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.types import (
    BatchConfig,
    FinishReason,
    InferenceRequest,
    RequestPriority,
    SamplingParams,
)
from support.stub_model import VOCAB_SIZE, EchoModel, HistoryModel, expected_tokens

MAX_MODEL_LEN = 64
EOS_TOKEN_IDS = frozenset({11, 12})
NUM_EVENTS = 120
TARGET_ITL_MS = 20.0
BEGINNINGS: list[range] = [range(0), range(30), range(20, 52)]
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "ignore_eos": True},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "min_tokens": 10},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.05, "stop_token_ids": (3, 4, 5)},
]


@dataclass
class Reader:
    """A client: how far it has read, and what it was told at the end."""

    request: InferenceRequest
    ring: TokenRing
    tokens: list[int] = field(default_factory=list)
    finished: Finished | None = None

    def read(self, max_items: int) -> None:
        self.tokens += [token_id for token_id, *_ in self.ring.pop(max_items)]


class History:
    """One random history of one engine; the same seed gives the same history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = self.random.choice([HistoryModel, EchoModel])(MAX_MODEL_LEN)
        num_blocks = self.random.choice([4, 5, 7, 40])
        self.engine = LLMEngine(
            TorchRunner(self.model),
            eos_token_ids=EOS_TOKEN_IDS,
            batch=BatchConfig(
                max_num_seqs=6,
                max_batch_tokens=self.random.choice([6, 7, 16, 64]),
                target_itl_ms=TARGET_ITL_MS,
                num_speculative_tokens=self.random.choice([0, 2, 8]),
            ),
            kv_cache_limit=KVCacheLimit(num_blocks * bytes_per_block(self.model)),
            max_model_len=MAX_MODEL_LEN,
            enable_prefix_caching=self.random.random() < 0.8,
            seed_source=lambda: 0,
            clock=lambda: self.random.uniform(0, 100) * TARGET_ITL_MS / 1000,
        )
        self.now_s = 0.0
        self.readers: dict[str, Reader] = {}
        self.seen: Counter[str] = Counter()

    def live(self) -> None:
        events = [self.arrive, self.step, self.step, self.step, self.read, self.read, self.cancel]
        weights = [4, 4, 4, 4, 3, 3, 1]
        for event in self.random.choices(events, weights, k=NUM_EVENTS):
            event()
        self.drain()

    def arrive(self) -> None:
        if self.engine.free_slots == 0:
            return
        draw = self.random
        sampling = SamplingParams(
            **draw.choice(SAMPLINGS), seed=draw.randrange(1000), max_tokens=draw.randint(10, 40)
        )
        own = draw.choices(range(VOCAB_SIZE), k=draw.randint(1, 40))
        request = InferenceRequest(
            request_id=str(len(self.readers)),
            model="m",
            prompt_token_ids=(*draw.choice(BEGINNINGS), *own)[:40],
            sampling=sampling,
            priority=draw.choice(list(RequestPriority)),
            deadline_at_s=draw.choice([None, None, None, self.now_s + 60]),
        )
        reader = Reader(request, TokenRing(draw.choice([1, 2, 8, 64])))
        self.readers[request.request_id] = reader
        self.engine.add(request, reader.ring)

    def step(self) -> None:
        self.now_s += 1
        before = {reader_id: len(reader.ring) for reader_id, reader in self.readers.items()}
        output = self.engine.step(self.now_s)
        self.engine.check_integrity()
        grown = {key for key, reader in self.readers.items() if len(reader.ring) > before[key]}
        assert grown == set(output.updated)
        for finished in output.finished:
            reader = self.readers[finished.request_id]
            assert reader.finished is None, "it ended twice"
            reader.finished = finished
            self.seen[finished.reason.value] += 1
        stats = self.engine.stats()
        self.seen["paused"] += stats.num_paused
        self.seen["stalled"] += output.stalled
        if output.stalled:
            unfinished = [r for r in self.readers.values() if r.finished is None]
            assert any(reader.ring.free_space() == 0 for reader in unfinished)

    def read(self) -> None:
        if self.readers:
            self.random.choice(list(self.readers.values())).read(self.random.choice([1, 4, 100]))

    def cancel(self) -> None:
        if self.readers:
            reader = self.random.choice(list(self.readers.values()))
            reader.ring.request_cancel(_token_ring.CANCELLED)

    def drain(self) -> None:
        """Let every reader read; then all must end, and soon."""
        for _ in range(self.engine.num_sequences * MAX_MODEL_LEN * 4):
            for reader in self.readers.values():
                reader.read(1)
            if self.engine.num_sequences == 0:
                break
            self.step()
        for reader in self.readers.values():
            reader.read(1000)
        stats = self.engine.stats()
        self.seen["preempted"] += stats.preemptions_total
        self.seen["cached"] += stats.prefix_cache_hits_total // BLOCK_SIZE
        self.seen["accepted"] += stats.num_accepted_tokens_total
        self.seen["rejected"] += stats.num_draft_tokens_total - stats.num_accepted_tokens_total

    def check(self) -> None:
        assert self.engine.num_sequences == 0, "it did not come to an end"
        assert self.engine.stats().kv_blocks_used == 0
        for reader in self.readers.values():
            self.check_reader(reader)

    def check_reader(self, reader: Reader) -> None:
        assert reader.finished is not None
        assert reader.finished.num_generated_tokens == len(reader.tokens)
        expected = expected_tokens(self.model, reader.request, eos_token_ids=EOS_TOKEN_IDS)
        if reader.finished.reason in {FinishReason.CANCELLED, FinishReason.DEADLINE}:
            assert reader.tokens == expected[: len(reader.tokens)]
        else:
            assert reader.tokens == expected


def test_output_never_depends_on_what_happens_around_a_sequence() -> None:
    seen: Counter[str] = Counter()
    for seed in range(40):
        history = History(seed)
        history.live()
        history.check()
        seen += history.seen
    cases = {"stop", "length", "cancelled", "deadline_exceeded"}
    cases |= {"paused", "stalled", "preempted", "cached", "accepted", "rejected"}
    assert all(seen[case] >= 10 for case in cases), f"the histories are too tame: {seen}"


def test_a_crowd_in_a_pool_for_one_answers_as_if_each_were_alone() -> None:
    """Sixteen long answers at once, in the least memory that the engine accepts."""
    model = HistoryModel(MAX_MODEL_LEN)
    engine = LLMEngine(
        TorchRunner(model),
        eos_token_ids=frozenset(),
        batch=BatchConfig(max_num_seqs=16, max_batch_tokens=32),
        kv_cache_limit=KVCacheLimit(MAX_MODEL_LEN // BLOCK_SIZE * bytes_per_block(model)),
        max_model_len=MAX_MODEL_LEN,
    )
    readers = []
    for i in range(16):
        request = InferenceRequest(
            request_id=str(i),
            model="m",
            prompt_token_ids=tuple(range(i, i + 1 + 2 * i)),
            sampling=SamplingParams(temperature=0.0, max_tokens=20 + i),
        )
        readers.append(Reader(request, TokenRing(64)))
        engine.add(request, readers[-1].ring)
    while engine.num_sequences:
        assert engine.step(0.0).updated or engine.stats().num_running
        engine.check_integrity()
    assert engine.stats().preemptions_total > 0
    for reader in readers:
        reader.read(1000)
        assert reader.tokens == expected_tokens(model, reader.request)
