from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import transformers

from realtime_serve._kernels import cpu_levels, kv_block_nbytes
from realtime_serve.engine.runner import BLOCK_SIZE, ScheduledRows
from realtime_serve.nn.native_llama import NativeShape
from support.native_network import CONFIGS, Floats, NativeNetwork, round_weights
from support.network import GREEDY
from support.tiny_models import last_logits

TOKENS = torch.randint(0, 211, (420,), generator=torch.Generator().manual_seed(1)).tolist()
PRECISIONS = ["f32", "bf16", "q8", "q4", "q8:bf16", "q4:bf16"]

each_level = pytest.mark.parametrize("level", cpu_levels())
each_cache = pytest.mark.parametrize(
    ("precision", "kv_format"),
    [*((each, None) for each in PRECISIONS), ("f32", "int8"), ("bf16", "int8"), ("q4", "int8")],
)


def random_model(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind], dtype=torch.float32)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.15)
    evaluated: transformers.PreTrainedModel = model.eval()
    return evaluated


def native_shape(*, num_layers: int, num_kv_heads: int, head_dim: int) -> NativeShape:
    return NativeShape(
        vocab_size=32,
        hidden_size=num_kv_heads * head_dim,
        intermediate_size=32,
        num_layers=num_layers,
        num_heads=num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        rotary_scale=1.0,
        rotary_frequencies=(1.0,) * (head_dim // 2),
    )


def assert_same_bits(actual: Floats, expected: Floats) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@each_level
@pytest.mark.parametrize("kind", CONFIGS)
def test_float32_logits_equal_those_of_transformers(kind: str, level: str) -> None:
    model = random_model(kind)
    network = NativeNetwork(model, "f32", level)
    for length in (1, 2, 16, 17, 33, 420):
        expected = last_logits(model, TOKENS[:length]).numpy()
        actual = network.last_logits(TOKENS[:length])
        np.testing.assert_allclose(actual, expected, atol=2e-4, rtol=1e-4)


@each_level
@pytest.mark.parametrize(
    ("precision", "least"),
    [("bf16", 0.9995), ("q8", 0.998), ("q4", 0.998), ("q8:bf16", 0.9995), ("q4:bf16", 0.9995)],
)
@pytest.mark.parametrize("kind", CONFIGS)
def test_with_rounded_weights_only_the_activations_differ_from_float32(
    kind: str, precision: str, least: float, level: str
) -> None:
    model = random_model(kind)
    network = NativeNetwork(model, precision, level)
    round_weights(model, precision.partition(":")[0])
    exact = last_logits(model, TOKENS).numpy()
    rounded = network.last_logits(TOKENS)
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > least


@each_level
@pytest.mark.parametrize("kind", CONFIGS)
def test_with_a_cache_of_8_bits_only_keys_and_values_differ_from_float32(
    kind: str, level: str
) -> None:
    # A code is off by up to half a step, 1/254 of the greatest value of its token and head: noise
    # of about 0.6 % of the values. These random weights give scores of several units, so that noise
    # in the keys moves the weights of attention by several times that. What is left is 1 to 3.3 %
    # of the logits (a cosine of 0.99945), the same at every level; 0.999 stands for 4.5 %.
    model = random_model(kind)
    exact = last_logits(model, TOKENS).numpy()
    rounded = NativeNetwork(model, "f32", level, kv_format="int8").last_logits(TOKENS)
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > 0.999
    exact_cache = NativeNetwork(model, "f32", level).last_logits(TOKENS)
    assert not np.array_equal(exact_cache, rounded)


@each_level
@each_cache
@pytest.mark.parametrize("chunks", [[1] * 299, [299], [1, 16, 100], [256], [17, 32, 200]])
def test_any_split_of_a_prompt_gives_the_same_bits(
    chunks: Sequence[int], precision: str, kv_format: str | None, level: str
) -> None:
    network = NativeNetwork(random_model("llama"), precision, level, kv_format=kv_format)
    whole = network.last_logits(TOKENS[:300])
    assert_same_bits(network.last_logits(TOKENS[:300], chunks), whole)


@each_level
@each_cache
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_mixed_step_gives_each_sequence_the_bits_that_it_gets_alone(
    num_threads: int, precision: str, kv_format: str | None, level: str
) -> None:
    # Tokens of each sequence, and how many of them are left to the mixed step.
    lengths = [(1, 1), (40, 1), (90, 20), (400, 1), (17, 17), (100, 1), (33, 2), (380, 1)]
    model = random_model("llama, biases")
    prompts = [TOKENS[-length:] for length, _ in lengths]
    alone = NativeNetwork(model, precision, level, kv_format=kv_format)
    expected = np.stack([alone.last_logits(prompt) for prompt in prompts])

    network = NativeNetwork(model, precision, level, kv_format=kv_format, num_threads=num_threads)
    mixed = []
    for prompt, (length, num_rows) in zip(prompts, lengths, strict=True):
        table = network.new_table(length)
        if length > num_rows:
            network.step(ScheduledRows(prompt[:-num_rows], 0, table, ()))
        mixed.append(ScheduledRows(prompt[-num_rows:], length - num_rows, table, (GREEDY,)))
    assert_same_bits(network.step(*mixed), expected)


@each_level
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_keep_to_their_own_memory_where_a_matrix_is_deep(
    precision: str, level: str
) -> None:
    # What a member unpacks of one panel of down then is more than anything else it needs.
    torch.manual_seed(0)
    config = dict(CONFIGS["llama"].to_dict(), intermediate_size=4096)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**config), dtype=torch.float32
    )
    one, three = (
        NativeNetwork(model, precision, level, num_threads=threads).last_logits(TOKENS[:70])
        for threads in (1, 3)
    )
    assert_same_bits(one, three)
    sibling = NativeNetwork(model, precision, level, num_threads=3)
    assert_same_bits(sibling.last_logits(TOKENS[:70]), one)


@each_level
def test_several_rows_of_a_sequence_may_want_logits(level: str) -> None:
    network = NativeNetwork(random_model("llama"), "f32", level)
    expected = np.stack([network.last_logits(TOKENS[:length]) for length in (38, 39, 40)])
    table = network.new_table(40)
    assert_same_bits(
        network.step(ScheduledRows(TOKENS[:40], 0, table, (GREEDY, GREEDY, GREEDY))), expected
    )


@each_level
@each_cache
def test_a_copied_block_serves_as_the_first_one_did(
    precision: str, kv_format: str | None, level: str
) -> None:
    network = NativeNetwork(random_model("llama"), precision, level, kv_format=kv_format)
    table = network.new_table(48)
    expected = network.step(ScheduledRows(TOKENS[:40], 0, table, (GREEDY,)))
    network.step(ScheduledRows(TOKENS[:39], 0, table, ()))
    (copy,) = network.new_table(1)
    network.transformer.copy_kv_block(table[1], copy)
    moved = [table[0], copy, table[2]]
    assert_same_bits(network.step(ScheduledRows(TOKENS[39:40], 39, moved, (GREEDY,))), expected)


@each_level
@each_cache
def test_a_sequence_of_nan_spoils_no_other_that_gets_its_block(
    precision: str, kv_format: str | None, level: str
) -> None:
    model = random_model("llama")
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    with torch.no_grad():
        embedding.weight[5] = torch.nan
    network = NativeNetwork(model, precision, level, kv_format=kv_format)
    table = network.new_table(16)
    healthy = [token_id for token_id in TOKENS[:20] if token_id != 5][:9]
    expected = network.step(ScheduledRows(healthy, 0, table, (GREEDY,)))
    spoiled = network.step(ScheduledRows([5] * 16, 0, table, (GREEDY,)))
    assert np.isnan(spoiled).all()
    assert_same_bits(network.step(ScheduledRows(healthy, 0, table, (GREEDY,))), expected)


def test_a_block_of_8_bits_takes_half_of_one_of_bfloat16_and_its_scales() -> None:
    for head_dim in (32, 64, 128):
        shape = native_shape(num_layers=3, num_kv_heads=5, head_dim=head_dim)
        scales = 3 * 5 * 2 * 4 * BLOCK_SIZE
        assert kv_block_nbytes("f32", shape) == 3 * 5 * 2 * 4 * BLOCK_SIZE * head_dim
        assert kv_block_nbytes("f32", shape) == 2 * kv_block_nbytes("bf16", shape)
        assert kv_block_nbytes("bf16", shape) == 2 * (kv_block_nbytes("int8", shape) - scales)
    with pytest.raises(ValueError, match="q4"):
        kv_block_nbytes("q4", native_shape(num_layers=1, num_kv_heads=1, head_dim=64))
