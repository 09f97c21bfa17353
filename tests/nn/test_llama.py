from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers

from realtime_serve.nn.interface import CausalLM
from support.network import Network, load, rows
from support.tiny_models import CONFIGS, last_logits, random_model

TOKENS = torch.randint(0, 211, (400,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest) -> transformers.PreTrainedModel:
    return random_model(request.param)


@pytest.fixture(scope="module")
def directory(
    reference: transformers.PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("model")
    reference.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> CausalLM:
    return load(directory)


@pytest.mark.parametrize("length", [1, 2, 16, 17, 400])
def test_logits_equal_those_of_transformers(
    model: CausalLM, reference: transformers.PreTrainedModel, length: int
) -> None:
    expected = last_logits(reference, TOKENS[:length])
    torch.testing.assert_close(
        Network(model).last_logits(TOKENS[:length]), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("chunks", [[1] * 299, [299], [1, 16, 100], [256], [17, 32, 200]])
def test_any_split_of_a_prompt_gives_the_same_logits(
    model: CausalLM, chunks: Sequence[int]
) -> None:
    whole = Network(model).last_logits(TOKENS[:300])
    split = Network(model).last_logits(TOKENS[:300], chunks)
    torch.testing.assert_close(split, whole, atol=1e-4, rtol=1e-4)


def test_a_mixed_step_gives_each_sequence_what_it_gets_alone(model: CausalLM) -> None:
    # Tokens of each sequence, and how many of them are left to the mixed step.
    lengths = [(1, 1), (40, 1), (90, 20), (400, 1), (17, 17), (100, 1), (33, 2), (380, 1)]
    prompts = [TOKENS[-length:] for length, _ in lengths]
    alone = torch.stack([Network(model).last_logits(prompt) for prompt in prompts])

    network = Network(model, num_blocks=80)
    mixed = []
    for prompt, (length, num_rows) in zip(prompts, lengths, strict=True):
        table = network.new_table(length)
        if length > num_rows:
            network.step(rows(prompt[:-num_rows], 0, table, False))
        mixed.append(rows(prompt[-num_rows:], length - num_rows, table, True))
    torch.testing.assert_close(network.step(*mixed), alone, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_near_float32(model: CausalLM, directory: Path) -> None:
    exact = Network(model).last_logits(TOKENS)
    rounded = Network(load(directory, "bfloat16")).last_logits(TOKENS)
    assert rounded.dtype == torch.float32
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.999
