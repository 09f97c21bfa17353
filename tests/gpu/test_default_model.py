"""The default model in torch on a device: transformers' tokens, whatever else the engine does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from realtime_serve import InferenceServer, RequestPriority, SamplingParams, ServerConfig
from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.kv_cache_size import KVCacheLimit
from realtime_serve.engine.loader import load_llm
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.nn.interface import CausalLM
from realtime_serve.types import BatchConfig, DType, InferenceRequest, MemoryShare, ModelConfig
from realtime_serve.weights import open_checkpoint
from support.network import Network
from support.tiny_models import last_logits

pytestmark = pytest.mark.not_under_gevent("it is about the numbers; they do not depend on gevent")

NUM_TOKENS = 16
MAX_MODEL_LEN = 256

STORY = (
    "Once upon a time, in a village by the sea, there lived an old clockmaker whose clocks "
    "never told the same time twice. "
)
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Q: What is the boiling point of water at sea level?\nA:",
    STORY * 5 + "One day a stranger came and asked",
]


class Reference(NamedTuple):
    """What transformers does on the CPU, in float32."""

    model: Any
    prompts: list[list[int]]
    tokens: list[list[int]]


@pytest.fixture(scope="module")
def reference(reference_path: Path) -> Reference:
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference_path)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        reference_path, dtype=torch.float32
    )
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    return Reference(model, prompts, [_generated(model, prompt) for prompt in prompts])


def _generated(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@pytest.fixture(scope="module")
def network(gguf_path: str, device: torch.device) -> CausalLM:
    return load(gguf_path, "float32", device)


def load(path: str, dtype: DType, device: torch.device) -> CausalLM:
    return load_llm(open_checkpoint(path), ModelConfig(dtype=dtype, num_threads=2), device)


def engine_of(network: CausalLM, num_blocks: int = 256, max_batch_tokens: int = 64) -> LLMEngine:
    runner = TorchRunner(network)
    return LLMEngine(
        runner,
        eos_token_ids=frozenset(),
        batch=BatchConfig(max_num_seqs=16, max_batch_tokens=max_batch_tokens),
        kv_cache_limit=KVCacheLimit(num_blocks * runner.bytes_per_block),
        max_model_len=MAX_MODEL_LEN,
    )


def add(
    engine: LLMEngine,
    prompts: Sequence[list[int]],
    priority: RequestPriority = RequestPriority.NORMAL,
    **sampling: Any,
) -> list[TokenRing]:
    """Add a request for each prompt; their rings."""
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": NUM_TOKENS, **sampling})
    rings = [TokenRing(256) for _ in prompts]
    for prompt, ring in zip(prompts, rings, strict=True):
        request = InferenceRequest(
            request_id=str(id(ring)),
            model="m",
            prompt_token_ids=tuple(prompt),
            sampling=params,
            priority=priority,
        )
        engine.add(request, ring)
    return rings


def finish(engine: LLMEngine, rings: Sequence[TokenRing]) -> list[list[int]]:
    """Step until all have ended; the tokens of each."""
    while engine.num_sequences:
        engine.step(0.0)
        engine.check_integrity()
    return [[token_id for token_id, *_ in ring.pop()] for ring in rings]


def answers(engine: LLMEngine, prompts: Sequence[list[int]], **sampling: Any) -> list[list[int]]:
    """What comes after each prompt; all are added at once."""
    return finish(engine, add(engine, prompts, **sampling))


# --- loading --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_cache_are_on_the_device_in_the_dtype(
    gguf_path: str, device: torch.device, dtype: DType
) -> None:
    network = load(gguf_path, dtype, device)
    runner = TorchRunner(network)
    runner.allocate(2)
    assert network.device == device
    assert {layer.device.type for layer in runner.kv_tensors} == {device.type}
    assert {layer.dtype for layer in runner.kv_tensors} == {getattr(torch, dtype)}
    assert not any(layer.any() for layer in runner.kv_tensors), "a mask does not stop NaN"


def test_a_gpu_computes_in_bfloat16_unless_told_otherwise(
    gguf_path: str, gpu: torch.device
) -> None:
    assert load(gguf_path, "auto", gpu).dtype == torch.bfloat16


# --- numbers --------------------------------------------------------------------


def test_greedy_tokens_in_float32_equal_those_of_transformers(
    network: CausalLM, reference: Reference
) -> None:
    for prompt, tokens in zip(reference.prompts, reference.tokens, strict=True):
        assert answers(engine_of(network), [prompt]) == [tokens]


def test_bfloat16_stays_near_float32(
    gguf_path: str, device: torch.device, reference: Reference
) -> None:
    rounded = load(gguf_path, "bfloat16", device)
    for prompt in reference.prompts:
        expected = last_logits(reference.model, prompt).log_softmax(-1)
        logits = Network(rounded).last_logits(prompt).cpu().log_softmax(-1)
        divergence = (expected.exp() * (expected - logits)).sum()
        assert divergence < 0.005


# --- the engine around it ---------------------------------------------------------


def test_a_batch_of_many_lengths_gives_each_what_it_gets_alone(
    network: CausalLM, reference: Reference
) -> None:
    together = answers(engine_of(network), reference.prompts * 3)
    assert together == reference.tokens * 3


def test_sampled_tokens_are_the_same_alone_and_in_a_batch(
    network: CausalLM, reference: Reference
) -> None:
    sampling = {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 7}
    together = answers(engine_of(network), reference.prompts, **sampling)
    alone = [answers(engine_of(network), [each], **sampling)[0] for each in reference.prompts]
    assert together == alone
    assert together != reference.tokens, "it was not sampled"


def test_what_the_prefix_cache_has_is_not_computed_again(
    network: CausalLM, reference: Reference
) -> None:
    engine = engine_of(network)
    longest = reference.prompts[-1]
    for _ in range(2):
        assert answers(engine, [longest]) == [reference.tokens[-1]]
    assert engine.stats().prefix_cache_hits_total > len(longest) - 2 * 16


def test_preempted_sequences_go_on_as_if_nothing_had_been(
    network: CausalLM, reference: Reference
) -> None:
    *short, long = reference.prompts
    engine = engine_of(network, num_blocks=MAX_MODEL_LEN // 16)
    rings = add(engine, short * 4, RequestPriority.LOW)
    for _ in range(6):
        engine.step(0.0)
    rings += add(engine, [long], RequestPriority.HIGH)
    assert finish(engine, rings) == [*reference.tokens[:-1] * 4, reference.tokens[-1]]
    assert engine.stats().preemptions_total > 0


def test_a_server_told_to_use_the_device_gives_the_same_tokens(
    gguf_path: str, device: torch.device, reference: Reference, tmp_path: Path
) -> None:
    """On a CPU the network is the native one."""
    config = ServerConfig(
        model=gguf_path,
        device="cuda" if device.type == "cuda" else "cpu",
        dtype="float32",
        kv_cache_bytes=MemoryShare(10),
        max_num_seqs=4,
        cache_dir=str(tmp_path),
    )
    sampling = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    with InferenceServer(config) as server:
        server.register_model()
        for prompt, tokens in zip(PROMPTS, reference.tokens, strict=True):
            assert list(server.complete(prompt, sampling=sampling).token_ids) == tokens
