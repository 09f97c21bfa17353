from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.llama_config import LlamaConfig
from support.tiny_models import CONFIGS, LLAMA3_ROPE, SIZES

LLAMA: Mapping[str, Any] = {"model_type": "llama", **SIZES}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ROPE_WORDS = st.sampled_from(["rope_type", "type", "factor", "freq_factors", *LLAMA3_ROPE])
JSON = st.recursive(
    SCALARS | st.sampled_from(["linear", "yarn", "llama3", "freq_factors"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ROPE_WORDS, inner, max_size=6),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_supported_family_is_read_from_its_own_config(kind: str) -> None:
    reference = CONFIGS[kind]
    config = LlamaConfig.from_hf(reference.to_dict())
    assert config.num_layers == reference.num_hidden_layers
    assert config.num_heads == reference.num_attention_heads
    assert config.num_kv_heads == reference.num_key_value_heads
    assert config.tie_word_embeddings == reference.tie_word_embeddings
    assert config.rms_norm_eps == reference.rms_norm_eps
    assert config.qk_norm == (kind == "qwen3")
    assert config.qkv_bias == (kind in {"qwen2", "llama, biases"})
    assert config.output_bias == (kind == "llama, biases")


def test_missing_entries_mean_what_hugging_face_means() -> None:
    config = dict(LLAMA)
    del config["num_key_value_heads"], config["rms_norm_eps"]
    read = LlamaConfig.from_hf(config)
    assert read.num_kv_heads == SIZES["num_attention_heads"]
    assert read.head_dim == SIZES["hidden_size"] // SIZES["num_attention_heads"]
    assert read.rms_norm_eps == transformers.LlamaConfig().rms_norm_eps
    assert LlamaConfig.from_hf({**config, "model_type": "qwen3"}).head_dim == 128


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model_type": "gemma3"}, "'gemma3' are not supported; supported are llama, mistral"),
        ({"model_type": None}, "None are not supported"),
        ({"model_type": ["llama"]}, "are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act of 'gelu' is not supported"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping of 50.0 is not supported"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping of 30.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "with partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config of"),
        ({"num_experts": 8}, "num_experts of 8"),
        ({"logit_scale": 0.5}, "logit_scale of 0.5"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling of type 'longrope'"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, r"hidden_size \(64\) must be"),
        ({"head_dim": 7}, r"head_dim \(7\) must be even"),
        ({"head_dim": 2**20}, "at most 1024"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number of at least 1, not 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
        ({"hidden_size": 2**40}, "hidden_size must be a whole number"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is out of range"),
    ],
)
def test_what_is_not_implemented_or_makes_no_sense_is_refused_by_name(
    entry: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        LlamaConfig.from_hf({**LLAMA, **entry})


@settings(max_examples=300, deadline=None)
@given(
    entries=st.dictionaries(
        st.sampled_from([*LLAMA, "rope_parameters", "rope_scaling", "rope_theta", "layer_types"]),
        JSON,
        min_size=1,
        max_size=3,
    )
)
def test_any_json_in_a_config_is_read_or_refused_and_nothing_else(
    entries: Mapping[str, Any],
) -> None:
    with contextlib.suppress(ModelLoadError):
        LlamaConfig.from_hf({**LLAMA, **entries}).rope.frequencies(16)


@pytest.mark.parametrize(
    "window",
    [
        {"sliding_window": 128},
        {"sliding_window": 128, "model_type": "mistral"},
        {"sliding_window": 128, "model_type": "qwen2", "use_sliding_window": True},
        {"sliding_window": 128, "layer_types": ["full_attention", "sliding_attention"]},
    ],
)
def test_a_window_shorter_than_the_context_is_refused(window: Mapping[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"sliding_window \(128\) is shorter than"):
        LlamaConfig.from_hf({**LLAMA, **window})


@pytest.mark.parametrize(
    "window",
    [
        {"sliding_window": None, "model_type": "mistral"},
        {"sliding_window": 512, "model_type": "mistral"},
        {"sliding_window": 128, "model_type": "qwen2"},
        {"sliding_window": 128, "model_type": "qwen2", "use_sliding_window": False},
        {"sliding_window": 128, "layer_types": ["full_attention", "full_attention"]},
    ],
)
def test_a_window_that_hides_nothing_is_accepted(window: Mapping[str, Any]) -> None:
    assert LlamaConfig.from_hf({**LLAMA, **window}).max_position_embeddings == 512
