"""Translates a GGUF file's metadata to the words of Hugging Face's config.json.

What a network does not implement is translated all the same, so that the network can
refuse it by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from realtime_serve.errors import ModelLoadError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Those whose tensor layout is known here. Mistral's files call themselves llama."""

_WORDS: Mapping[str, str] = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.scale": "attention_multiplier",
    "attention.clamp_kqv": "clip_qkv",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "residual_scale": "residual_multiplier",
    "embedding_scale": "embedding_multiplier",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
    "expert_count": "num_experts",
}
"""Below the architecture's name in GGUF, at the top level in config.json."""

_ROPE_WORDS: Mapping[str, str] = {
    "type": "rope_type",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Below rope.scaling in GGUF, in rope_scaling in config.json; other words are the same."""

_TOKENS: Mapping[str, str] = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
}


def hf_config(
    metadata: Mapping[str, Any],
    tensor_shapes: Mapping[str, tuple[int, ...]],
    rope_divisors: Collection[float],
) -> dict[str, Any]:
    """Say in Hugging Face's words what the file says in its own.

    Args:
        metadata: The file's entries.
        tensor_shapes: Shape of each tensor by its Hugging Face name; some settings are only
            told by which tensors there are.
        rope_divisors: What the rotary frequencies are divided by, if the file stores that.

    Returns:
        The configuration.

    Raises:
        ModelLoadError: The architecture is not one of `ARCHITECTURES`, or values are narrower
            than keys.
    """
    architecture = _architecture(metadata)
    config: dict[str, Any] = {"model_type": architecture, "hidden_act": "silu"}
    for key, word in _WORDS.items():
        config[word] = metadata.get(f"{architecture}.{key}")
    for key, word in _TOKENS.items():
        config[word] = metadata.get(key)
    config["vocab_size"] = tensor_shapes.get("model.embed_tokens.weight", (None,))[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in tensor_shapes
    config["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in tensor_shapes
    config["mlp_bias"] = "model.layers.0.mlp.gate_proj.bias" in tensor_shapes
    config["rope_scaling"] = _rope_scaling(metadata, architecture, rope_divisors)
    _add_head_widths(config, metadata, architecture)
    return config


def _architecture(metadata: Mapping[str, Any]) -> str:
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelLoadError(
            f"GGUF files of architecture {architecture!r} are not supported; "
            f"supported are {', '.join(ARCHITECTURES)}."
        )
    return str(architecture)


def _rope_scaling(
    metadata: Mapping[str, Any], architecture: str, divisors: Collection[float]
) -> dict[str, Any] | None:
    prefix = f"{architecture}.rope.scaling."
    scaling = {
        _ROPE_WORDS.get(key.removeprefix(prefix), key.removeprefix(prefix)): value
        for key, value in metadata.items()
        if key.startswith(prefix) and key != f"{prefix}finetuned"
    }
    if scaling.get("rope_type") == "none":
        scaling = {}
    if divisors:
        return scaling | {"rope_type": "freq_factors", "freq_factors": list(divisors)}
    return scaling or None


def _add_head_widths(
    config: dict[str, Any], metadata: Mapping[str, Any], architecture: str
) -> None:
    key_width = config["head_dim"]
    if metadata.get(f"{architecture}.attention.value_length", key_width) != key_width:
        raise ModelLoadError(
            "Models whose values are of another width than keys are not supported."
        )
    rotated = metadata.get(f"{architecture}.rope.dimension_count")
    width = key_width or _quotient(config["hidden_size"], config["num_attention_heads"])
    config["head_dim"] = width
    if rotated and width and rotated != width:
        config["partial_rotary_factor"] = rotated / width


def _quotient(total: object, parts: object) -> int | None:
    if isinstance(total, int) and isinstance(parts, int) and parts > 0:
        return total // parts
    return None
