"""The Llama-like network in C: which configurations it runs, and what it has to be told.

The torch network of llama.py computes the same; it is the reference, and runs what this one
cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from realtime_serve.nn.llama_config import LlamaConfig

WIDTH_MULTIPLE = 32
"""Panels are this wide, and groups of quantised values this long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeShape:
    """The sizes of a native network.

    Args:
        vocab_size: Rows of the embedding.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the feed-forward layer.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Width of a head.
        rms_norm_eps: Added to the mean square in every norm.
        rotary_scale: Factor on sine and cosine.
        rotary_frequencies: Angle per position of each pair of dimensions.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rotary_scale: float
    rotary_frequencies: tuple[float, ...]

    @classmethod
    def from_config(cls, config: LlamaConfig) -> NativeShape:
        """The sizes of a network that `unsupported_reason` has nothing against.

        Raises:
            ModelLoadError: The stored rotary divisors do not fit the head.
        """
        frequencies, scale = config.rope.frequencies(config.head_dim)
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            rotary_scale=scale,
            rotary_frequencies=tuple(frequencies.tolist()),
        )


def unsupported_reason(config: LlamaConfig) -> str | None:
    """Why the native network cannot run a configuration; None if it can."""
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "head_dim": config.head_dim,
    }
    for name, width in widths.items():
        if width % WIDTH_MULTIPLE:
            return f"{name} ({width}) is not a multiple of {WIDTH_MULTIPLE}"
    return None
