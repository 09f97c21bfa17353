from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.rope_config import RopeConfig
from support.tiny_models import LLAMA3_ROPE, SIZES, YARN_ROPE

HEAD_DIM = 16
CONTEXT = {"max_position_embeddings": 512}

SCALINGS = [
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
    LLAMA3_ROPE,
    {**LLAMA3_ROPE, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
    YARN_ROPE,
    {**YARN_ROPE, "attention_factor": 0.7, "beta_fast": 20.0, "beta_slow": 2.0},
    {**YARN_ROPE, "factor": 1.0},
    {**YARN_ROPE, "rope_theta": 150000.0, "original_max_position_embeddings": 4},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0},
]


def reference(parameters: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    config = transformers.LlamaConfig(**SIZES, rope_parameters=dict(parameters))
    functions = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS
    frequencies, factor = functions[parameters["rope_type"]](config, torch.device("cpu"))
    return frequencies, factor


@pytest.mark.parametrize("parameters", SCALINGS)
def test_scaled_frequencies_equal_those_of_transformers(parameters: Mapping[str, Any]) -> None:
    expected, expected_factor = reference(parameters)
    rope = RopeConfig.from_hf({"rope_parameters": parameters, **CONTEXT})
    frequencies, factor = rope.frequencies(HEAD_DIM)
    torch.testing.assert_close(torch.from_numpy(frequencies), expected)
    assert factor == pytest.approx(expected_factor)


@pytest.mark.parametrize("parameters", SCALINGS)
def test_the_older_spelling_means_the_same(parameters: Mapping[str, Any]) -> None:
    old = {name: value for name, value in parameters.items() if name != "rope_theta"}
    old["type"] = old.pop("rope_type")
    old_config = {"rope_theta": parameters["rope_theta"], "rope_scaling": old, **CONTEXT}
    assert RopeConfig.from_hf(old_config) == RopeConfig.from_hf(
        {"rope_parameters": parameters, **CONTEXT}
    )


def test_without_scaling_frequencies_fall_from_one_to_the_base() -> None:
    frequencies, factor = RopeConfig.from_hf({"rope_theta": 10000.0}).frequencies(4)
    assert frequencies.tolist() == pytest.approx([1.0, 0.01])
    assert factor == 1.0


def test_a_missing_base_is_ten_thousand() -> None:
    assert RopeConfig.from_hf({}).theta == 10000.0


def test_stored_divisors_divide_the_frequencies() -> None:
    scaling = {"rope_type": "freq_factors", "freq_factors": [1.0, 5.0]}
    frequencies, _ = RopeConfig.from_hf({"rope_scaling": scaling}).frequencies(4)
    assert frequencies.tolist() == pytest.approx([1.0, 0.002])


def test_divisors_that_do_not_fit_the_head_are_refused() -> None:
    scaling = {"rope_type": "freq_factors", "freq_factors": [1.0, 5.0]}
    with pytest.raises(ModelLoadError, match="2 rotary factors, but a head of 16 needs 8"):
        RopeConfig.from_hf({"rope_scaling": scaling}).frequencies(HEAD_DIM)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic' is not supported"),
        ({"rope_type": ["yarn"]}, "is not supported"),
        ({**YARN_ROPE, "mscale": 0.7}, "with mscale is not supported"),
        ({"rope_type": "default", "mrope_section": [2, 3, 3]}, "with mrope_section"),
        ({"rope_type": "linear"}, "lacks factor"),
        ({"rope_type": "linear", "factor": "two"}, "factor must be a number"),
        ({"rope_type": "linear", "factor": 0}, "factor is out of range"),
        ({**LLAMA3_ROPE, "low_freq_factor": None}, "lacks low_freq_factor"),
        ({"rope_theta": float("nan")}, "rope_theta is out of range"),
        ({"rope_theta": 10**400}, "rope_theta is out of range"),
        ({"rope_theta": 1.0}, "rope_theta must be greater than 1"),
        ({"rope_type": "freq_factors"}, "lacks freq_factors"),
        ({"rope_type": "freq_factors", "freq_factors": 3.0}, "freq_factors must be a list"),
        ({"rope_type": "freq_factors", "freq_factors": [1.0, None]}, "freq_factors must be a"),
        ({"rope_type": "linear", "factor": 2.0, "freq_factors": [1.0]}, "with freq_factors"),
        ("linear", "must be an object"),
        ({"full_attention": {"rope_type": "default"}}, "with full_attention is not supported"),
    ],
)
def test_what_is_not_implemented_or_makes_no_sense_is_refused_by_name(
    scaling: object, message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        RopeConfig.from_hf({"rope_scaling": scaling, **CONTEXT})


def test_a_blend_between_equal_borders_is_refused() -> None:
    parameters = {**LLAMA3_ROPE, "high_freq_factor": 1.0}
    rope = RopeConfig.from_hf({"rope_parameters": parameters})
    with pytest.raises(ModelLoadError, match="low_freq_factor less than high_freq_factor"):
        rope.frequencies(HEAD_DIM)
