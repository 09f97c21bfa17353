"""The whole server against transformers: the same greedy tokens from the same weights.

In float32, where the two may differ by rounding only: ten prompts of different lengths,
alone, and among sixteen requests that arrive while others run and that take each
other's KV blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from realtime_serve import (
    InferenceServer,
    RequestPriority,
    SamplingParams,
    ServerConfig,
    TokenStream,
)

pytestmark = pytest.mark.not_under_gevent("it is about the numbers; they do not depend on gevent")

NUM_TOKENS = 24
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)

STORY = (
    "Once upon a time, in a village by the sea, there lived an old clockmaker whose clocks "
    "never told the same time twice. "
)
PROMPTS = [
    "Hi",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Q: What is the boiling point of water at sea level?\nA:",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,",
    "Les misérables est un roman de Victor Hugo publié en 1862. 日本語 😀",
    STORY,
    STORY * 4,
    STORY * 10 + "One day a stranger came and asked",
    STORY * 20 + "In the end, the clockmaker",
]


@pytest.fixture(scope="module")
def expected(reference_path: Path) -> list[list[int]]:
    """What transformers generates for each prompt, alone and greedily."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference_path)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        reference_path, dtype=torch.float32
    )
    tokens = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        tokens.append(output[0, ids.shape[1] :].tolist())
    return tokens


@pytest.fixture(scope="module")
def server(reference_path: Path) -> Iterator[InferenceServer]:
    """A server of that directory whose KV cache cannot hold all sixteen at once."""
    config = ServerConfig(
        model=str(reference_path),
        dtype="float32",
        max_model_len=768,
        kv_cache_bytes=50 * 2**20,
        max_num_seqs=16,
        max_batch_tokens=64,
    )
    with InferenceServer(config) as server:
        server.register_model()
        yield server


def test_the_prompts_have_ten_different_lengths(server: InferenceServer) -> None:
    model = server.registry.resolve(None)
    lengths = {len(server.encode_prompt(model, prompt)) for prompt in PROMPTS}
    assert len(lengths) == 10
    assert max(lengths) > 5 * 64  # several chunks


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_each_prompt_alone_gives_transformers_tokens(
    server: InferenceServer, expected: list[list[int]], number: int
) -> None:
    answer = server.complete(PROMPTS[number], sampling=GREEDY)
    assert list(answer.token_ids) == expected[number]


def test_sixteen_staggered_and_preempted_requests_give_the_same_tokens(
    server: InferenceServer, expected: list[list[int]]
) -> None:
    stats = server.registry.resolve(None).stats
    assert stats is not None
    before = stats.preemptions_total
    numbers = [9, 8, 7, 6, 9, 8, *range(10)]  # long ones first, to fill the cache

    def submit(number: int, priority: RequestPriority) -> TokenStream:
        return server.generate(PROMPTS[number], sampling=GREEDY, priority=priority)

    streams = [submit(number, RequestPriority.LOW) for number in numbers[:4]]
    tokens: list[list[int]] = [[] for _ in numbers]
    for number in numbers[4:]:  # each arrives while the first is running, and may take its blocks
        tokens[0] += [token.token_id for token in streams[0].read()]
        streams.append(submit(number, RequestPriority.HIGH))
    for stream, ids in zip(streams, tokens, strict=True):
        ids += [token.token_id for token in stream]
    assert tokens == [expected[number] for number in numbers]
    stats = server.registry.resolve(None).stats
    assert stats is not None
    assert stats.preemptions_total > before


def test_the_gguf_file_gives_the_same_text_and_chat_as_the_directory(
    server: InferenceServer, gguf_path: str
) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with InferenceServer(ServerConfig(model=gguf_path, dtype="float32")) as other:
        for prompt in (PROMPTS[1], messages):
            assert other.complete(prompt, sampling=GREEDY).text == (
                server.complete(prompt, sampling=GREEDY).text
            )
