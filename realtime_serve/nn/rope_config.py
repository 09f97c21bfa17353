"""Which rotary frequencies a model was trained with.

The scaled variants differ from the plain one in their frequencies only, and YaRN in one
factor on top of sine and cosine. Each variant is one function and one row of
`ROPE_TYPES`; a parameter that a variant does not know is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.config_values import number, numbers

FloatArray: TypeAlias = npt.NDArray[np.float32]

DEFAULT_THETA = 10000.0
"""The base of the frequencies where a config does not name one."""

NOT_NUMBERS = frozenset({"rope_type", "type", "rope_theta"})
"""Entries of rope_parameters that are not numbers of the scaling."""

NEUTRAL = {"partial_rotary_factor": 1.0}
"""Entries that are not implemented, and the value that asks for nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """Base and scaling of the rotary embedding.

    Args:
        rope_type: One of `ROPE_TYPES`.
        theta: Base of the frequencies.
        numbers: What the scaling needs, by the names of config.json.
        freq_factors: Divisor of each frequency, as a GGUF file stores them; else empty.
    """

    rope_type: str = "default"
    theta: float = DEFAULT_THETA
    numbers: Mapping[str, float]
    freq_factors: tuple[float, ...] = ()

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> RopeConfig:
        """Read `rope_parameters`, or the older `rope_theta` and `rope_scaling`.

        Args:
            config: The words of Hugging Face's config.json.

        Returns:
            The rotary configuration.

        Raises:
            ModelLoadError: The scaling is of a kind that is not implemented, or a number
                is missing, unknown or out of range.
        """
        given = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(given, Mapping):
            raise ModelLoadError(f"The model's rope_scaling must be an object, not {given!r}.")
        rope_type = given.get("rope_type") or given.get("type") or "default"
        if not isinstance(rope_type, str) or rope_type not in ROPE_TYPES:
            raise ModelLoadError(
                f"rope_scaling of type {rope_type!r} is not supported; "
                f"supported are {', '.join(ROPE_TYPES)}."
            )
        theta = number({**config, **given}, "rope_theta", DEFAULT_THETA)
        if theta <= 1:
            raise ModelLoadError(f"The model's rope_theta must be greater than 1, not {theta}.")
        return cls(
            rope_type=rope_type,
            theta=theta,
            numbers=_numbers(rope_type, given, config),
            freq_factors=_divisors(rope_type, given),
        )

    def frequencies(self, head_dim: int) -> tuple[FloatArray, float]:
        """The angle per position of each pair of dimensions.

        Args:
            head_dim: Dimensions of a head.

        Returns:
            Frequencies, float32, [head_dim / 2], and the factor on sine and cosine.

        Raises:
            ModelLoadError: The stored divisors do not fit the head.
        """
        return ROPE_TYPES[self.rope_type].frequencies(self, head_dim)


def _numbers(
    rope_type: str, given: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, float]:
    kind = ROPE_TYPES[rope_type]
    known = kind.required | kind.optional | kind.lists | NOT_NUMBERS
    unknown = {
        name
        for name, value in given.items()
        if name not in known and value is not None and value != NEUTRAL.get(name)
    }
    if unknown:
        raise ModelLoadError(
            f"rope_scaling of type {rope_type!r} with {', '.join(sorted(unknown))} "
            "is not supported."
        )
    # Where no original context is named, the model was trained at its full length.
    merged = {"original_max_position_embeddings": config.get("max_position_embeddings"), **given}
    required = {name: number(merged, name) for name in kind.required}
    return required | {name: number(given, name) for name in kind.optional if given.get(name)}


def _divisors(rope_type: str, given: Mapping[str, Any]) -> tuple[float, ...]:
    return numbers(given, "freq_factors") if ROPE_TYPES[rope_type].lists else ()


def _plain(rope: RopeConfig, head_dim: int) -> FloatArray:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1.0) / np.float32(rope.theta) ** exponents


def _default(rope: RopeConfig, head_dim: int) -> tuple[FloatArray, float]:
    return _plain(rope, head_dim), 1.0


def _linear(rope: RopeConfig, head_dim: int) -> tuple[FloatArray, float]:
    return _plain(rope, head_dim) / np.float32(rope.numbers["factor"]), 1.0


def _freq_factors(rope: RopeConfig, head_dim: int) -> tuple[FloatArray, float]:
    if len(rope.freq_factors) != head_dim // 2:
        raise ModelLoadError(
            f"The model has {len(rope.freq_factors)} rotary factors, "
            f"but a head of {head_dim} needs {head_dim // 2}."
        )
    divisors: FloatArray = np.array(rope.freq_factors, np.float32)
    return _plain(rope, head_dim) / divisors, 1.0


def _llama3(rope: RopeConfig, head_dim: int) -> tuple[FloatArray, float]:
    """Slow frequencies are divided, fast ones kept, those between blended by their speed."""
    low, high = rope.numbers["low_freq_factor"], rope.numbers["high_freq_factor"]
    if low >= high:
        raise ModelLoadError("rope_scaling needs low_freq_factor less than high_freq_factor.")
    plain = _plain(rope, head_dim)
    turns = rope.numbers["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clip(0, 1)
    blended = (1 - kept) * plain / rope.numbers["factor"] + kept * plain
    return blended.astype(np.float32), 1.0


def _yarn(rope: RopeConfig, head_dim: int) -> tuple[FloatArray, float]:
    """As llama3, but blended by dimension, and with a factor on top."""
    factor = rope.numbers["factor"]
    context = rope.numbers["original_max_position_embeddings"]

    def dimension_of(turns: float) -> float:
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension_of(rope.numbers.get("beta_fast", 32))), 0)
    high = min(math.ceil(dimension_of(rope.numbers.get("beta_slow", 1))), head_dim - 1)
    width = high - low if high != low else 0.001  # as the reference avoids the division by 0
    divided = ((np.arange(head_dim // 2, dtype=np.float32) - low) / width).clip(0, 1)
    plain = _plain(rope, head_dim)
    frequencies = divided * plain / factor + (1 - divided) * plain
    usual_scale = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return frequencies.astype(np.float32), rope.numbers.get("attention_factor", usual_scale)


class _RopeType(NamedTuple):
    frequencies: Callable[[RopeConfig, int], tuple[FloatArray, float]]
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()


ROPE_TYPES: Mapping[str, _RopeType] = {
    "default": _RopeType(_default),
    "linear": _RopeType(_linear, frozenset({"factor"})),
    "llama3": _RopeType(
        _llama3,
        frozenset(
            {
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            }
        ),
    ),
    "yarn": _RopeType(
        _yarn,
        frozenset({"factor", "original_max_position_embeddings"}),
        frozenset({"attention_factor", "beta_fast", "beta_slow"}),
    ),
    # Not Hugging Face's word: a GGUF file stores the divisors and not their recipe.
    "freq_factors": _RopeType(_freq_factors, lists=frozenset({"freq_factors"})),
}
"""The scalings that are implemented, each with what it takes."""
