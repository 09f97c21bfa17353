"""The sampler in torch, where it runs: on the device, beside the one in C."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from realtime_serve.engine.runner import SamplingRow
from realtime_serve.engine.sampler import ROWS_AT_ONCE, Sampler
from realtime_serve.types import SamplingParams
from support.row_sampling import sample_row

FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.3},
    {"top_k": 7},
    {"top_k": 900},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 2.0},
    {"min_p": 0.1},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
]
NUM_SEEDS = 12


def like_a_language_model(vocab_size: int) -> Tensor:
    """A few tokens above noise."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(vocab_size, generator=generator) * 2
    heads = torch.randperm(vocab_size, generator=generator)[:50]
    logits[heads] = 14 - 1.5 * torch.arange(1, len(heads) + 1).log()
    return logits


SHAPES = {
    "like a language model": like_a_language_model(3001),
    "flat": torch.zeros(1000),
    "two levels": (torch.arange(2000) % 3 == 0).float(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_and_logprobs_are_those_of_the_c_sampler(device: torch.device, shape: str) -> None:
    """Tokens differ only where the random number falls on a border between two."""
    logits = SHAPES[shape]
    rows = [
        SamplingRow(SamplingParams(**filters), seed, seed % 5, banned_token_ids=(seed,))
        for filters in FILTERS
        for seed in range(NUM_SEEDS)
    ]
    assert len(rows) > 2 * ROWS_AT_ONCE
    tokens = Sampler().sample(logits.repeat(len(rows), 1).to(device), rows)
    num_equal = 0
    for token, row in zip(tokens, rows, strict=True):
        expected = sample_row(logits, row)
        assert token is not None
        assert expected is not None
        if token.token_id == expected[0]:
            num_equal += 1
            assert token.logprob == pytest.approx(expected[1], abs=1e-5)
    assert num_equal >= len(rows) - 1


def test_a_row_without_usable_logits_fails_alone(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [torch.nan, 0.0, 0.0], [9.0, 5.0, 2.0]])
    for temperature in (0.0, 1.0):
        rows = [SamplingRow(SamplingParams(temperature=temperature, top_k=1), 0, 0)] * 3
        tokens = Sampler().sample(logits.to(device), rows)
        assert [token and token.token_id for token in tokens] == [1, None, 0]
