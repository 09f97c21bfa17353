"""The default model's own weights, from its GGUF file, against transformers in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from realtime_serve.nn.interface import CausalLM
from support.network import Network, load, rows
from support.tiny_models import last_logits

PROMPTS = {
    length: torch.randint(0, 49152, (length,), generator=torch.Generator().manual_seed(length))
    for length in (1, 7, 33, 150, 300)
}


@pytest.fixture(scope="module")
def reference(reference_path: Path) -> transformers.PreTrainedModel:
    model: transformers.PreTrainedModel = transformers.LlamaForCausalLM.from_pretrained(
        reference_path, dtype=torch.float32
    )
    return model


@pytest.fixture(scope="module")
def model(gguf_path: str) -> CausalLM:
    return load(gguf_path)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_logits_in_float32_equal_those_of_transformers(
    model: CausalLM, reference: transformers.PreTrainedModel, prompt: torch.Tensor
) -> None:
    expected = last_logits(reference, prompt.tolist())
    logits = Network(model).last_logits(prompt.tolist())
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
    assert logits.argmax() == expected.argmax()


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_greedy_tokens_in_float32_equal_those_of_transformers(
    model: CausalLM, reference: Any, prompt: torch.Tensor
) -> None:
    expected = reference.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0]
    assert greedy(model, prompt.tolist(), 12) == expected[len(prompt) :].tolist()


@pytest.mark.parametrize("chunks", [[1] * 20, [64, 64], [149]])
def test_any_split_of_a_prompt_gives_the_same_logits(
    model: CausalLM, chunks: Sequence[int]
) -> None:
    prompt = PROMPTS[150].tolist()
    whole = Network(model).last_logits(prompt)
    split = Network(model).last_logits(prompt, chunks)
    torch.testing.assert_close(split, whole, atol=1e-3, rtol=0)


def test_the_directory_gives_what_the_gguf_file_gives(
    model: CausalLM, reference_path: Path
) -> None:
    prompt = PROMPTS[33].tolist()
    from_gguf = Network(model).last_logits(prompt)
    from_directory = Network(load(reference_path)).last_logits(prompt)
    assert torch.equal(from_directory, from_gguf)


def test_bfloat16_stays_near_float32(
    gguf_path: str, reference: transformers.PreTrainedModel
) -> None:
    rounded = load(gguf_path, "bfloat16")
    for prompt in PROMPTS.values():
        expected = last_logits(reference, prompt.tolist()).log_softmax(-1)
        logits = Network(rounded).last_logits(prompt.tolist()).log_softmax(-1)
        divergence = (expected.exp() * (expected - logits)).sum()
        assert divergence < 0.005


def greedy(model: CausalLM, prompt: list[int], num_tokens: int) -> list[int]:
    network = Network(model)
    table = network.new_table(len(prompt) + num_tokens)
    token_ids, start = list(prompt), 0
    while len(token_ids) < len(prompt) + num_tokens:
        logits = network.step(rows(token_ids[start:], start, table, True))
        start = len(token_ids)
        token_ids.append(int(logits[0].argmax()))
    return token_ids[len(prompt) :]
