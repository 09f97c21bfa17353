"""What a Llama-like network looks like, read from Hugging Face's config.json vocabulary.

Four families share the network of llama.py: Llama itself (SmolLM too), Mistral, Qwen2
(biases on query, key and value) and Qwen3 (norms on query and key heads). A setting
that changes the mathematics and is not implemented is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.config_values import number, size
from realtime_serve.nn.rope_config import RopeConfig

MAX_HEAD_DIM = 1024
"""Four times the largest in use: a config cannot ask for absurd tables."""


class _Family(NamedTuple):
    """Where the members differ, beyond what their configs say.

    Args:
        qkv_bias: Biases on query, key and value; None means as attention_bias says.
        qk_norm: RMS norms on query and key heads.
        window_by_default: Whether sliding_window holds without use_sliding_window.
        head_dim: What a missing head_dim means; None means hidden_size / num_attention_heads.
    """

    qkv_bias: bool | None = None
    qk_norm: bool = False
    window_by_default: bool = True
    head_dim: int | None = None


_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(),
    "mistral": _Family(),
    "qwen2": _Family(qkv_bias=True, window_by_default=False),
    "qwen3": _Family(qk_norm=True, window_by_default=False, head_dim=128),
}

_ONLY: Mapping[str, tuple[object, ...]] = {
    "hidden_act": (None, "silu", "swish"),
    "partial_rotary_factor": (None, 1.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "quantization_config": (None,),
    "attention_multiplier": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1.0),
    "residual_multiplier": (None, 1.0),
    "logit_scale": (None, 1.0),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
}
"""Settings of which only the listed values are implemented."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """Shapes and variants of the network.

    Args:
        vocab_size: Rows of the embedding.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the feed-forward layer.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides num_heads.
        head_dim: Width of a head; even.
        rms_norm_eps: Added to the mean square in every norm.
        max_position_embeddings: Longest context the model was made for.
        rope: Rotary embedding.
        tie_word_embeddings: The head's weights are the embedding's.
        qkv_bias: Biases on query, key and value.
        output_bias: Bias on attention's output.
        mlp_bias: Biases in the feed-forward layer.
        qk_norm: RMS norms on query and key heads.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool

    def __post_init__(self) -> None:
        """Check what has to fit together."""
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"The model's num_attention_heads ({self.num_heads}) must be a multiple of "
                f"its num_key_value_heads ({self.num_kv_heads})."
            )
        if self.head_dim % 2 or self.head_dim > MAX_HEAD_DIM:
            raise ModelLoadError(
                f"The model's head_dim ({self.head_dim}) must be even and at most {MAX_HEAD_DIM}."
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """Read a configuration.

        Args:
            config: The words of Hugging Face's config.json.

        Returns:
            The network's configuration.

        Raises:
            ModelLoadError: A setting is missing, out of range, or not implemented.
        """
        family = _family(config)
        _refuse_unsupported(config)
        _refuse_sliding_window(config, family)
        num_heads = size(config, "num_attention_heads")
        attention_bias = bool(config.get("attention_bias"))
        return cls(
            vocab_size=size(config, "vocab_size"),
            hidden_size=size(config, "hidden_size"),
            intermediate_size=size(config, "intermediate_size"),
            num_layers=size(config, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=size(config, "num_key_value_heads", num_heads),
            head_dim=_head_dim(config, family, num_heads),
            rms_norm_eps=number(config, "rms_norm_eps", 1e-6),
            max_position_embeddings=size(config, "max_position_embeddings"),
            rope=RopeConfig.from_hf(config),
            tie_word_embeddings=bool(config.get("tie_word_embeddings")),
            qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
            output_bias=attention_bias and family.qkv_bias is None,
            mlp_bias=bool(config.get("mlp_bias")),
            qk_norm=family.qk_norm,
        )


def _family(config: Mapping[str, Any]) -> _Family:
    model_type = config.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ModelLoadError(
            f"Models of type {model_type!r} are not supported; "
            f"supported are {', '.join(_FAMILIES)}."
        )
    return family


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    for name, supported in _ONLY.items():
        if config.get(name) not in supported:
            raise ModelLoadError(f"The model's {name} of {config[name]!r} is not supported.")


def _refuse_sliding_window(config: Mapping[str, Any], family: _Family) -> None:
    window = config.get("sliding_window")
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list):
        uses_window = any(kind != "full_attention" for kind in layer_types)
    else:
        uses_window = bool(config.get("use_sliding_window", family.window_by_default))
    if not uses_window or window is None:
        return
    context = size(config, "max_position_embeddings")
    if size(config, "sliding_window") < context:
        raise ModelLoadError(
            f"The model's sliding_window ({window}) is shorter than its "
            f"max_position_embeddings ({context}); sliding windows are not supported."
        )


def _head_dim(config: Mapping[str, Any], family: _Family, num_heads: int) -> int:
    if config.get("head_dim") is None and family.head_dim is None:
        hidden_size = size(config, "hidden_size")
        if hidden_size % num_heads:
            raise ModelLoadError(
                f"The model's hidden_size ({hidden_size}) must be a multiple of its "
                f"num_attention_heads ({num_heads})."
            )
        return hidden_size // num_heads
    return size(config, "head_dim", family.head_dim)
