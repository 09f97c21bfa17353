"""Guesses over the native network: the same bits, since a row depends on nothing but itself."""

from __future__ import annotations

import pytest
import torch
import transformers

from realtime_serve._kernels import ComputePool, Transformer, cpu_levels
from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.kv_cache_size import KVCacheLimit
from realtime_serve.engine.native_runner import NativeRunner
from realtime_serve.engine.speculation import max_samples
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape
from realtime_serve.types import BatchConfig, InferenceRequest, SamplingParams
from support.native_network import CONFIGS, KV_FORMATS, packed_sections

PROMPTS = [(7, 8, 9, 10) * 5, (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5) * 2]


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(
        CONFIGS["llama"]
    )
    return model


def build(
    model: transformers.PreTrainedModel,
    weight_format: str,
    level: str,
    num_speculative_tokens: int,
) -> LLMEngine:
    batch = BatchConfig(max_num_seqs=2, num_speculative_tokens=num_speculative_tokens)
    shape = NativeShape.from_config(LlamaConfig.from_hf(model.config.to_dict()))
    transformer = Transformer(
        shape,
        packed_sections(model, weight_format),
        ComputePool(1),
        level=level,
        num_threads=1,
        max_rows=batch.max_batch_tokens,
        max_outputs=max_samples(batch),
    )
    return LLMEngine(
        NativeRunner(transformer, shape, KV_FORMATS[weight_format]),
        eos_token_ids=frozenset(),
        batch=batch,
        kv_cache_limit=KVCacheLimit(2**22),
        max_model_len=256,
        seed_source=lambda: 0,
    )


def answers(engine: LLMEngine, temperature: float) -> list[list[tuple[int, int, float, int]]]:
    rings = []
    for i, prompt in enumerate(PROMPTS):
        rings.append(TokenRing(256))
        sampling = SamplingParams(temperature=temperature, top_k=3, max_tokens=100, seed=i)
        engine.add(
            InferenceRequest(
                request_id=str(i), model="m", prompt_token_ids=prompt, sampling=sampling
            ),
            rings[-1],
        )
    while engine.num_sequences:
        engine.step(0.0)
        engine.check_integrity()
    return [ring.pop(1000) for ring in rings]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("weight_format", ["bf16", "q4"])
@pytest.mark.parametrize("level", cpu_levels())
def test_tokens_and_their_log_probabilities_are_the_same_with_guesses(
    model: transformers.PreTrainedModel, level: str, weight_format: str, temperature: float
) -> None:
    plain, guessing = (build(model, weight_format, level, most) for most in (0, 8))
    assert answers(guessing, temperature) == answers(plain, temperature)
    stats = guessing.stats()
    assert stats.num_draft_tokens_total > 0
    if temperature == 0.0:
        assert stats.num_accepted_tokens_total > 0
        assert stats.steps_total < plain.stats().steps_total
